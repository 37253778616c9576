-- needs: 0.1.0
-- Fewer statements for a turn: what it begins with is checked by the statement that begins it, and what a process notes
-- for all of its turns together takes one statement each, which is a transaction of its own.

-- What a message in this session, or in a new one, begins with, for the principal in `p_claims` and under row-level
-- security: settings of the organisation, and agent, model and metadata of the session, as text where they are JSON. The
-- digests stand for the JSON. `session_found` is false where this principal has no such session.
CREATE FUNCTION agentapi.turn_defaults_1(p_claims text, p_session uuid, OUT session_found boolean, OUT settings text,
    OUT settings_digest text, OUT agent text, OUT model text, OUT metadata text, OUT metadata_digest text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_user CONSTANT uuid := p_claims::jsonb ->> 'sub';
    v_org CONSTANT uuid := p_claims::jsonb ->> 'agentapi_org';
BEGIN
    PERFORM set_config('request.jwt.claims', p_claims, true), set_config('role', 'authenticated', true);
    SELECT p_session IS NULL OR s.id IS NOT NULL, o.settings::text, a.name, m.name, s.metadata::text
      INTO session_found, settings, agent, model, metadata
      FROM (SELECT) AS one
      LEFT JOIN agentapi.own_organizations o ON o.id = v_org
      LEFT JOIN public.chat_sessions s ON s.id = p_session AND s.user_id = v_user AND s.org_id = v_org
      LEFT JOIN agentapi.agent_names a ON a.id = s.agent_id
      LEFT JOIN agentapi.model_names m ON m.id = s.model_id;
    settings_digest := encode(sha256(convert_to(settings, 'UTF8')), 'hex');
    metadata_digest := encode(sha256(convert_to(metadata, 'UTF8')), 'hex');
END
$function$;

-- Begins a turn as begin_turn_1 does, whose parameters and answers it has, for a program that has chosen agent, model and
-- parameters by what it knows already: `p_known` has the session, and the names and digests of turn_defaults_1; without
-- it, nothing is compared. Another `outcome` is
--   stale        nothing is written, since something of these has changed: read them, and choose anew
-- `metadata` and `metadata_digest` are those of a session that was made, which the next message begins with.
CREATE FUNCTION agentapi.begin_turn_2(p_claims text, p_known jsonb, p_new jsonb, p_text text, OUT outcome text,
    OUT began timestamptz, OUT began_asking timestamptz, OUT in_session uuid, OUT user_message uuid, OUT previous uuid,
    OUT state text, OUT open_turn uuid, OUT keyed_turn uuid, OUT same_turn uuid, OUT metadata text,
    OUT metadata_digest text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_login CONSTANT text := current_setting('role');
    d record;
BEGIN
    IF p_known IS NOT NULL THEN
        SELECT * INTO d FROM agentapi.turn_defaults_1(p_claims, (p_known ->> 'session')::uuid);
        IF coalesce((p_new ->> 'again')::boolean, false)
           AND EXISTS (SELECT FROM agentapi.turns t WHERE t.id = (p_new ->> 'id')::uuid) THEN
            NULL; -- It was written by the call before, which may have changed the session by that.
        ELSIF NOT d.session_found THEN
            outcome := 'no_session';
            RETURN;
        ELSIF d.settings_digest IS DISTINCT FROM p_known ->> 'settings' OR d.agent IS DISTINCT FROM p_known ->> 'agent'
           OR d.model IS DISTINCT FROM p_known ->> 'model'
           OR d.metadata_digest IS DISTINCT FROM p_known ->> 'metadata' THEN
            outcome := 'stale';
            RETURN;
        END IF;
        -- No role that outside clients could take may call the other one.
        PERFORM set_config('role', v_login, true);
    END IF;
    SELECT b.outcome, b.began, b.began_asking, b.in_session, b.user_message, b.previous, b.state, b.open_turn,
           b.keyed_turn, b.same_turn
      INTO outcome, began, began_asking, in_session, user_message, previous, state, open_turn, keyed_turn, same_turn
      FROM agentapi.begin_turn_1(p_claims, p_new, p_text) AS b;
    IF outcome = 'begun' AND p_new ->> 'session' IS NULL THEN
        PERFORM set_config('role', 'authenticated', true);
        SELECT s.metadata::text INTO metadata FROM public.chat_sessions s WHERE s.id = in_session;
        metadata_digest := encode(sha256(convert_to(metadata, 'UTF8')), 'hex');
    END IF;
END
$function$;

-- Tells the other processes what has changed: writes signals, and notifies that there are some.
CREATE FUNCTION agentapi.tell_1(p_sender uuid, p_signals text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    PERFORM set_config('role', 'agentapi_system', true);
    INSERT INTO agentapi.signals (sender, signal) SELECT p_sender, unnest(p_signals);
    PERFORM pg_notify(f.value, p_sender::text) FROM agentapi.facts f WHERE f.name = 'signal_channel';
END
$function$;

-- Notes which answers of a process have arrived.
CREATE FUNCTION agentapi.mark_delivered_1(p_turns uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    PERFORM set_config('role', 'agentapi_system', true);
    UPDATE agentapi.turns t SET delivered_at = clock_timestamp() WHERE t.id = ANY (p_turns);
END
$function$;

-- For the program's logins alone, to which each run of `migrate` grants them: all take roles by themselves.
REVOKE ALL ON FUNCTION agentapi.turn_defaults_1(text, uuid), agentapi.begin_turn_2(text, jsonb, jsonb, text),
    agentapi.tell_1(uuid, text[]), agentapi.mark_delivered_1(uuid[]) FROM PUBLIC, anon, authenticated, service_role;
-- Some signals go out with a transaction of the program.
GRANT EXECUTE ON FUNCTION agentapi.tell_1(uuid, text[]) TO agentapi_system;
