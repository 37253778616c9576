-- needs: 0.1.0
-- An interrupted turn that was asked stays in the way of its message after its caller was told so: it is not asked again
-- without the caller's knowledge. One that was given up, because nobody waited for it, can be asked again with its key.

-- Begins a turn for the principal in `p_claims`, under row-level security. `outcome` is
--   begun        the turn and its message are written, or, with `again`, were written before
--   ended        with `again`: it was written, and somebody has ended it since
--   no_session   there is no such session of this principal
--   in_the_way   nothing is written: `open_turn` is the open turn of the session, `keyed_turn` the turn of this key,
--                `same_turn` one of the same request that its caller may not have received, or that was interrupted
-- Of `p_new`: `session` continues a session, otherwise `new_session` is made; `join` looks for `same_turn`; `replaces`
-- is a turn that was interrupted or given up, and that this one asks again, with its message where nothing was said
-- since; `again` repeats a call whose answer was lost; `retry` looks for turns that were received, too.
CREATE OR REPLACE FUNCTION agentapi.begin_turn_1(p_claims text, p_new jsonb, p_text text, OUT outcome text, OUT began timestamptz,
    OUT began_asking timestamptz, OUT in_session uuid, OUT user_message uuid, OUT previous uuid, OUT state text,
    OUT open_turn uuid, OUT keyed_turn uuid, OUT same_turn uuid)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    n record;
    old record;
    v_user CONSTANT uuid := p_claims::jsonb ->> 'sub';
    v_org CONSTANT uuid := p_claims::jsonb ->> 'agentapi_org';
    v_last timestamptz;
    v_owner uuid;
    v_is_gone boolean;
    v_gone uuid;
    v_reuses boolean := false;
BEGIN
    -- A session that somebody else keeps locked must not keep a connection for longer than this.
    PERFORM set_config('request.jwt.claims', p_claims, true), set_config('role', 'agentapi_writer', true),
            set_config('lock_timeout', '2s', true);
    SELECT * INTO n FROM jsonb_to_record(p_new) AS r (
        id uuid, session uuid, new_session uuid, message uuid, title text, agent_id uuid, agent text, backend text,
        model_id uuid, model text, fingerprint bytea, parameters jsonb, owner uuid, lease double precision, client text,
        key text, "join" boolean, replaces uuid, asked boolean, again boolean, retry boolean,
        events jsonb);
    IF n.again THEN
        SELECT t.created_at, t.asked_at, t.session_id, t.user_message_id, t.lease_owner
          INTO began, began_asking, in_session, user_message, v_owner FROM agentapi.turns t WHERE t.id = n.id;
        IF FOUND THEN
            outcome := CASE WHEN v_owner = n.owner THEN 'begun' ELSE 'ended' END;
            SELECT c.id INTO previous FROM public.chat_messages c JOIN public.chat_messages u ON u.id = user_message
             WHERE c.session_id = in_session AND (c.created_at, c.id) < (u.created_at, u.id)
             ORDER BY c.created_at DESC, c.id DESC LIMIT 1;
            SELECT l.backend_state::text INTO state FROM (
                SELECT t.agent_name, t.backend, t.backend_state FROM agentapi.turns t
                 WHERE t.session_id = in_session AND t.id <> n.id ORDER BY t.created_at DESC, t.id DESC LIMIT 1) l
             WHERE l.agent_name = n.agent AND l.backend = n.backend;
            RETURN;
        END IF;
    END IF;
    in_session := coalesce(n.session, n.new_session);
    user_message := n.message;

    IF n.session IS NOT NULL THEN
        -- Not now(), which is the start of the transaction: one that waited for the lock would be placed before the
        -- messages that it waited for. `greatest` preserves the order when the clock is set back.
        SELECT greatest(clock_timestamp(), coalesce(s.last_message_at, s.created_at) + interval '1 microsecond'),
               s.last_message_at INTO began, v_last FROM public.chat_sessions s WHERE s.id = n.session FOR UPDATE;
        IF NOT FOUND THEN
            outcome := 'no_session';
            RETURN;
        END IF;
        -- In a second statement, whose snapshot sees what the lock waited for. The previous message is searched from the
        -- session's own time on, since the policy is evaluated for every message scanned. A backend's handle is valid
        -- only if its turn is the latest: it would not know later messages of other backends.
        SELECT (SELECT r.id FROM agentapi.turns r
                 WHERE r.session_id = n.session AND r.status IN ('running', 'input_required')),
               (SELECT c.id FROM public.chat_messages c WHERE c.session_id = n.session AND c.created_at >= v_last
                 ORDER BY c.created_at DESC, c.id DESC LIMIT 1),
               (SELECT l.backend_state::text FROM (SELECT t.agent_name, t.backend, t.backend_state FROM agentapi.turns t
                  WHERE t.session_id = n.session ORDER BY t.created_at DESC, t.id DESC LIMIT 1) l
                 WHERE l.agent_name = n.agent AND l.backend = n.backend)
          INTO open_turn, previous, state;
    END IF;
    IF n.key IS NOT NULL THEN
        SELECT k.turn_id, NOT EXISTS (SELECT FROM agentapi.turns t WHERE t.id = k.turn_id) INTO keyed_turn, v_is_gone
          FROM agentapi.idempotency_keys k
         WHERE k.user_id = v_user AND k.org_id = v_org AND k.key = n.key AND k.expires_at >= clock_timestamp()
           AND k.turn_id IS DISTINCT FROM n.replaces;
        -- The turn of a deleted session is gone, and its key is free.
        IF v_is_gone THEN
            v_gone := keyed_turn;
            keyed_turn := NULL;
        END IF;
    ELSIF n."join" THEN
        -- Those first whose callers went away or were told that it runs, and came not back; for a retry the newest, which
        -- is the retry itself where it is repeated.
        SELECT t.id INTO same_turn FROM agentapi.turns t
         WHERE t.user_id = v_user AND t.org_id = v_org AND t.fingerprint = n.fingerprint
           AND t.client IS NOT DISTINCT FROM n.client AND t.replaced_by IS NULL
           AND (t.delivered_at IS NULL OR t.status = 'interrupted' OR n.retry)
           AND t.status NOT IN ('cancelled', 'failed') AND t.id IS DISTINCT FROM n.replaces
           AND (t.ended_at IS NULL OR t.ended_at > clock_timestamp() - interval '10 minutes')
         ORDER BY NOT n.retry AND coalesce(greatest(t.caller_gone_at, t.answered_running_at)
                                           > coalesce(t.followed_at, '-infinity'), false) DESC, t.created_at DESC LIMIT 1;
    END IF;
    IF n.replaces IS NOT NULL THEN
        SELECT t.id, t.session_id, t.user_message_id, t.assistant_message_id, u.created_at AS said_at INTO old
          FROM agentapi.turns t JOIN public.chat_messages u ON u.id = t.user_message_id
         WHERE t.id = n.replaces AND t.session_id = n.session AND t.replaced_by IS NULL
           AND (t.status = 'interrupted' OR t.end_reason = 'abandoned')
           FOR UPDATE OF t;
        IF NOT FOUND THEN
            same_turn := n.replaces;
        END IF;
    END IF;
    IF coalesce(open_turn, keyed_turn, same_turn) IS NOT NULL THEN
        outcome := 'in_the_way';
        RETURN;
    END IF;

    -- The first write: a request at the same time with this key waits here, and then finds the turn of the other.
    IF n.key IS NOT NULL THEN
        INSERT INTO agentapi.idempotency_keys AS k (user_id, org_id, key, fingerprint, turn_id, expires_at)
        VALUES (v_user, v_org, n.key, n.fingerprint, n.id, clock_timestamp() + interval '24 hours')
        ON CONFLICT (user_id, org_id, key) DO UPDATE
           SET fingerprint = excluded.fingerprint, turn_id = excluded.turn_id, expires_at = excluded.expires_at
         WHERE k.expires_at < clock_timestamp() OR k.turn_id = n.replaces
            OR k.turn_id = v_gone;
        IF NOT FOUND THEN
            SELECT k.turn_id INTO keyed_turn FROM agentapi.idempotency_keys k
             WHERE k.user_id = v_user AND k.org_id = v_org AND k.key = n.key;
            outcome := 'in_the_way';
            RETURN;
        END IF;
    END IF;
    IF n.session IS NULL THEN
        began := clock_timestamp();
        INSERT INTO public.chat_sessions (id, user_id, org_id, model_id, agent_id, title, created_at, last_message_at)
        VALUES (n.new_session, v_user, v_org, n.model_id, n.agent_id, n.title, began, began);
    ELSE
        UPDATE public.chat_sessions s SET last_message_at = began, agent_id = n.agent_id, model_id = n.model_id
         WHERE s.id = n.session;
    END IF;
    IF n.replaces IS NOT NULL THEN
        UPDATE agentapi.turns t SET replaced_by = n.id WHERE t.id = n.replaces;
        v_reuses := NOT EXISTS (
            SELECT FROM public.chat_messages c
             WHERE c.session_id = n.session AND (c.created_at, c.id) > (old.said_at, old.user_message_id)
               AND c.id IS DISTINCT FROM old.assistant_message_id);
        IF v_reuses THEN
            user_message := old.user_message_id;
            previous := (SELECT c.id FROM public.chat_messages c
                          WHERE c.session_id = n.session AND (c.created_at, c.id) < (old.said_at, old.user_message_id)
                          ORDER BY c.created_at DESC, c.id DESC LIMIT 1);
        END IF;
    END IF;
    IF NOT v_reuses THEN
        INSERT INTO public.chat_messages (id, session_id, role, content, metadata, created_at)
        VALUES (n.message, in_session, 'user', p_text, jsonb_build_object('turn_id', n.id), began);
    END IF;
    began_asking := CASE WHEN n.asked THEN clock_timestamp() END;
    INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_id, agent_name, backend,
        model_row_id, model_name, fingerprint, parameters, status, lease_owner, lease_until, created_at, asked_at, client)
    VALUES (n.id, in_session, v_user, v_org, user_message, n.agent_id, n.agent, n.backend, n.model_id, n.model,
        n.fingerprint, n.parameters, 'running', n.owner, clock_timestamp() + make_interval(secs => n.lease), began,
        began_asking, n.client);
    outcome := 'begun';

    -- The log is the program's: no user may write it.
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
