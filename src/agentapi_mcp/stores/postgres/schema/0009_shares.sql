-- needs: 0.1.0
-- Shares: how many turns, and bytes of their messages, a user may have running at once in all processes, and what an
-- organisation has set for itself in settings.limits. They are counted where a turn is written, whoever writes it.

-- message_bytes  the size of its message; null for a turn of before
ALTER TABLE agentapi.turns ADD COLUMN message_bytes integer;
CREATE INDEX turns_running_user ON agentapi.turns (user_id) INCLUDE (message_bytes)
    WHERE status IN ('running', 'input_required');
CREATE INDEX turns_running_org ON agentapi.turns (org_id) INCLUDE (message_bytes)
    WHERE status IN ('running', 'input_required');

-- Who is near a limit waits here for others of theirs, so that no two of them take the last place at the same time. Rows
-- of a table, and no advisory locks, which any login of the database could hold.
CREATE TABLE agentapi.share_locks (holder uuid PRIMARY KEY);
ALTER TABLE agentapi.share_locks ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON agentapi.share_locks FROM PUBLIC, anon, authenticated, service_role;

-- What a user or an organisation has of a resource now.
CREATE FUNCTION agentapi.share_used(p_holder uuid, p_resource text) RETURNS numeric
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
    SELECT CASE p_resource
        WHEN 'user running_turns' THEN (SELECT count(*) FROM agentapi.turns t
            WHERE t.user_id = p_holder AND t.status IN ('running', 'input_required'))
        WHEN 'user running_bytes' THEN (SELECT coalesce(sum(t.message_bytes), 0) FROM agentapi.turns t
            WHERE t.user_id = p_holder AND t.status IN ('running', 'input_required'))
        WHEN 'organization running_turns' THEN (SELECT count(*) FROM agentapi.turns t
            WHERE t.org_id = p_holder AND t.status IN ('running', 'input_required'))
        WHEN 'organization running_bytes' THEN (SELECT coalesce(sum(t.message_bytes), 0) FROM agentapi.turns t
            WHERE t.org_id = p_holder AND t.status IN ('running', 'input_required'))
        WHEN 'organization conversations' THEN (SELECT count(*) FROM public.chat_sessions s WHERE s.org_id = p_holder)
    END
$function$;
REVOKE ALL ON FUNCTION agentapi.share_used(uuid, text) FROM PUBLIC, anon, authenticated, service_role;

-- Refuses a turn that is more than a share, as SQLSTATE AA003 with a JSON object that says whose and of what, how much
-- there may be and how much there is. The claim agentapi_shares has what one user may have, or says that the process has
-- refused the turn already: it is refused here, where it is known that no other turn answers its message.
CREATE FUNCTION agentapi.check_shares() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    -- So many turns of a holder may be about to be written at the same time.
    c_at_once CONSTANT integer := 100;
    c_largest CONSTANT integer := 1000000;
    v_shares CONSTANT jsonb := coalesce(
        nullif(current_setting('request.jwt.claims', true), '')::jsonb -> 'agentapi_shares', '{}');
    v_limits CONSTANT jsonb := (SELECT o.settings -> 'limits' FROM public.organizations o WHERE o.id = NEW.org_id);
    v_used numeric;
    v_own integer;
    r record;
BEGIN
    NEW.message_bytes := (SELECT octet_length(c.content) FROM public.chat_messages c WHERE c.id = NEW.user_message_id);
    IF v_shares ? 'refused' THEN
        RAISE EXCEPTION USING ERRCODE = 'AA003', MESSAGE = '{"whose": "process"}';
    END IF;
    FOR r IN
        SELECT l.whose, l.holder, l.what, (l.most #>> '{}')::numeric AS most, l.amount, l.unit FROM (VALUES
            ('user', NEW.user_id, 'running_turns', v_shares -> 'running_turns', 1, 1),
            ('user', NEW.user_id, 'running_bytes', v_shares -> 'running_bytes', NEW.message_bytes, c_largest),
            ('organization', NEW.org_id, 'running_turns', v_limits -> 'max_running_turns', 1, 1),
            ('organization', NEW.org_id, 'running_bytes', v_limits -> 'max_running_bytes', NEW.message_bytes, c_largest),
            ('organization', NEW.org_id, 'conversations', v_limits -> 'max_conversations', 1, 1)
        ) AS l (whose, holder, what, most, amount, unit) WHERE jsonb_typeof(l.most) = 'number'
    LOOP
        CONTINUE WHEN r.what = 'conversations'
            AND EXISTS (SELECT FROM agentapi.turns t WHERE t.session_id = NEW.session_id);
        -- The session of a first turn is written before it.
        v_own := CASE WHEN r.what = 'conversations' THEN 1 ELSE 0 END;
        v_used := agentapi.share_used(r.holder, r.whose || ' ' || r.what) - v_own;
        IF v_used + c_at_once * r.unit > r.most THEN
            INSERT INTO agentapi.share_locks (holder) VALUES (r.holder) ON CONFLICT DO NOTHING;
            PERFORM FROM agentapi.share_locks l WHERE l.holder = r.holder FOR UPDATE;
            v_used := agentapi.share_used(r.holder, r.whose || ' ' || r.what) - v_own;
        END IF;
        IF v_used + r.amount > r.most THEN
            RAISE EXCEPTION USING ERRCODE = 'AA003', MESSAGE = jsonb_build_object(
                'whose', r.whose, 'what', r.what, 'most', r.most, 'used', v_used)::text;
        END IF;
    END LOOP;
    RETURN NEW;
END
$function$;
REVOKE ALL ON FUNCTION agentapi.check_shares() FROM PUBLIC, anon, authenticated, service_role;
CREATE TRIGGER check_shares BEFORE INSERT ON agentapi.turns FOR EACH ROW EXECUTE FUNCTION agentapi.check_shares();
