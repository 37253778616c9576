-- needs: 0.1.0
-- Fields of a turn's cost that have no column of their own, by their names: a new field needs no migration. One that
-- statements are to search or to add up gets a column.
ALTER TABLE agentapi.turns ADD COLUMN cost_details jsonb NOT NULL DEFAULT '{}';
GRANT SELECT (cost_details) ON agentapi.turns TO authenticated;

-- Ends a turn for the principal in `p_claims`, under row-level security and fenced by the lease. `p_cost` has the columns
-- of the turn's cost. `outcome` is `ended`, also where this owner had ended it before, or `lost` where somebody else has.
CREATE OR REPLACE FUNCTION agentapi.end_turn_1(p_claims text, p_end jsonb, p_reply text, p_cost jsonb, OUT outcome text,
    OUT ended timestamptz, OUT cancel_requested timestamptz, OUT reply_message uuid)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    n record;
    c agentapi.turns;
    v_at timestamptz;
BEGIN
    PERFORM set_config('request.jwt.claims', p_claims, true), set_config('role', 'agentapi_writer', true),
            set_config('lock_timeout', '2s', true);
    SELECT * INTO n FROM jsonb_to_record(p_end) AS r (
        id uuid, session uuid, owner uuid, message uuid, status text, end_reason text, stop_reason text, error jsonb,
        warning text, history_dropped integer, state jsonb, asked boolean, caller_gone boolean, events jsonb);
    c := jsonb_populate_record(NULL::agentapi.turns, p_cost);
    -- The session's row first, in the same order as everywhere: no deadlock.
    SELECT greatest(clock_timestamp(), coalesce(s.last_message_at, s.created_at) + interval '1 microsecond') INTO v_at
      FROM public.chat_sessions s WHERE s.id = n.session FOR UPDATE;
    UPDATE agentapi.turns t SET status = n.status, end_reason = n.end_reason, stop_reason = n.stop_reason, error = n.error,
        warning = n.warning, history_dropped = n.history_dropped, backend_state = n.state,
        assistant_message_id = n.message, input_tokens = c.input_tokens, output_tokens = c.output_tokens,
        cached_tokens = c.cached_tokens, reasoning_tokens = c.reasoning_tokens, cost_usd = c.cost_usd,
        cost_source = c.cost_source, billing_may_go_on = c.billing_may_go_on, latency_ms = c.latency_ms,
        time_to_first_token_ms = c.time_to_first_token_ms, model_used = c.model_used, provider = c.provider,
        route = c.route, cost_details = coalesce(c.cost_details, '{}'), partial_text = '', lease_owner = NULL,
        lease_until = NULL, ended_by = n.owner,
        ended_at = greatest(clock_timestamp(), t.created_at),
        asked_at = CASE WHEN n.asked THEN t.asked_at END,
        cancel_requested_at = CASE WHEN n.end_reason = 'cancel_turn' THEN coalesce(t.cancel_requested_at, clock_timestamp())
                                   ELSE t.cancel_requested_at END,
        caller_gone_at = CASE WHEN n.caller_gone THEN coalesce(t.caller_gone_at, clock_timestamp())
                              ELSE t.caller_gone_at END
     WHERE t.id = n.id AND t.lease_owner = n.owner AND t.status IN ('running', 'input_required')
    RETURNING t.ended_at, t.cancel_requested_at, t.assistant_message_id INTO ended, cancel_requested, reply_message;
    IF NOT FOUND THEN
        SELECT t.ended_at, t.cancel_requested_at, t.assistant_message_id INTO ended, cancel_requested, reply_message
          FROM agentapi.turns t WHERE t.id = n.id AND t.ended_by = n.owner;
        outcome := CASE WHEN FOUND THEN 'ended' ELSE 'lost' END;
        RETURN;
    END IF;
    IF n.message IS NOT NULL THEN
        INSERT INTO public.chat_messages
            (id, session_id, role, content, tokens_in, tokens_out, tokens_total, metadata, created_at)
        VALUES (n.message, n.session, 'assistant', p_reply, c.input_tokens, c.output_tokens,
            c.input_tokens + c.output_tokens, jsonb_build_object('turn_id', n.id, 'status', n.status), v_at);
        UPDATE public.chat_sessions s SET last_message_at = v_at WHERE s.id = n.session;
    END IF;
    outcome := 'ended';

    PERFORM set_config('role', 'agentapi_system', true);
    INSERT INTO agentapi.audit_events (id, at, org_id, user_id, via, client, address, request_id, action, target_kind,
                                       target_id, outcome, details)
    SELECT e.id, e.at, e.org_id, e.user_id, e.via, e.client, e.address, e.request_id, e.action, e.target_kind, e.target_id,
           e.outcome, e.details
      FROM jsonb_to_recordset(n.events) AS e (
           id uuid, at timestamptz, org_id uuid, user_id uuid, via text, client text, address text, request_id text,
           action text, target_kind text, target_id text, outcome text, details jsonb);
END
$function$;
