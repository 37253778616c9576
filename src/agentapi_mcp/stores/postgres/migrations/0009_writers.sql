-- needs: 0.1.0
-- Whoever holds a token of Supabase can be `authenticated` without the program: that role writes nothing of ours any
-- more. The program writes for a principal as `agentapi_writer`, which no outside client can take.
DO $$
DECLARE
    login name;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'agentapi_writer') THEN
        BEGIN
            CREATE ROLE agentapi_writer NOLOGIN NOINHERIT;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
                'The database does not fit, seen as the login %s: the role agentapi_writer is missing and the login may '
                'not create it: CREATE ROLE agentapi_writer NOLOGIN NOINHERIT', current_user);
        END;
    END IF;
    IF EXISTS (SELECT FROM pg_roles
                WHERE rolname = 'agentapi_writer' AND (rolsuper OR rolbypassrls OR rolcanlogin)) THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE =
            'The role agentapi_writer must not log in, be a superuser, nor bypass row-level security';
    END IF;
    -- Who works for the program goes on working for it, where this login may see to that; else the program says what
    -- it lacks when it starts.
    FOR login IN SELECT m.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member
                  WHERE a.roleid = 'agentapi_system'::regrole UNION SELECT current_user LOOP
        IF NOT pg_has_role(login, 'agentapi_writer', 'MEMBER') OR
            (current_setting('server_version_num')::int >= 160000
             AND NOT pg_has_role(login, 'agentapi_writer', 'SET')) THEN
            BEGIN
                EXECUTE format('GRANT agentapi_writer TO %I', login);
            EXCEPTION WHEN insufficient_privilege THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA agentapi TO agentapi_writer;
DO $$
BEGIN
    IF NOT has_schema_privilege('agentapi_writer', 'public', 'USAGE') THEN
        GRANT USAGE ON SCHEMA public TO agentapi_writer;
    END IF;
    IF NOT has_schema_privilege('agentapi_writer', 'auth', 'USAGE') THEN
        GRANT USAGE ON SCHEMA auth TO agentapi_writer;
    END IF;
END
$$;

-- What the program says of the principal for whom it runs a statement. Only the program names an organisation, so a
-- statement without one comes from an outside client. What core/identity.py decides, these ask for once more.
CREATE FUNCTION agentapi.bound_organization() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'agentapi_org')::uuid $$;
CREATE FUNCTION agentapi.bound_session() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'agentapi_session')::uuid $$;
CREATE FUNCTION agentapi.may(action text, roles text[], scope text) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT coalesce((c ->> 'agentapi_role' = ANY (roles) OR c -> 'agentapi_allowed' ? action)
                       AND NOT coalesce(c -> 'agentapi_denied' ? action, false)
                       AND coalesce(c -> 'agentapi_scopes' ? scope, true), false)
         FROM (SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb AS c) AS said $$;
CREATE FUNCTION agentapi.may_chat() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT agentapi.may('sessions:chat', '{member,admin,owner}', 'chat') $$;
CREATE FUNCTION agentapi.may_edit() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT agentapi.may('sessions:edit', '{member,admin,owner}', 'edit') $$;
-- Whoever may chat follows their own turns.
CREATE FUNCTION agentapi.may_see() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT agentapi.may('sessions:read', '{viewer,member,admin,owner}', 'read') OR agentapi.may_chat()
           OR agentapi.may_edit() $$;
-- With its owner's rights, since members may see nothing of that table themselves. It asks now: who has left sees
-- nothing, whatever a token says.
CREATE FUNCTION agentapi.own_organization_ids() RETURNS uuid[] LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS
    $$ SELECT coalesce(array_agg(m.organization_id), '{}')
         FROM public.organization_members m
        WHERE m.user_id = auth.uid()
          AND m.organization_id = coalesce(agentapi.bound_organization(), m.organization_id) $$;
REVOKE ALL ON FUNCTION agentapi.bound_organization(), agentapi.bound_session(), agentapi.may(text, text[], text), agentapi.may_chat(),
    agentapi.may_edit(), agentapi.may_see(), agentapi.own_organization_ids() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION agentapi.bound_organization(), agentapi.bound_session(), agentapi.may(text, text[], text), agentapi.may_chat(),
    agentapi.may_edit(), agentapi.may_see(), agentapi.own_organization_ids() TO authenticated, agentapi_writer;

-- The writer: own rows of the bound organisation, and what the role and the scopes allow. A turn begins only where its
-- user is a member now; what was begun is also finished.
DROP POLICY agentapi_own ON public.chat_sessions;
CREATE POLICY agentapi_writer_read ON public.chat_sessions FOR SELECT TO agentapi_writer
    USING (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization()));
CREATE POLICY agentapi_writer_new ON public.chat_sessions FOR INSERT TO agentapi_writer
    WITH CHECK (user_id = (SELECT auth.uid()) AND org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
                AND org_id = (SELECT agentapi.bound_organization()) AND (SELECT agentapi.may_chat()));
CREATE POLICY agentapi_writer_change ON public.chat_sessions FOR UPDATE TO agentapi_writer
    USING (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization())
           AND ((SELECT agentapi.may_chat()) OR (SELECT agentapi.may_edit())));
CREATE POLICY agentapi_writer_delete ON public.chat_sessions FOR DELETE TO agentapi_writer
    USING (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization())
           AND (SELECT agentapi.may_edit()));
GRANT SELECT, INSERT, UPDATE, DELETE ON public.chat_sessions TO agentapi_writer;

DROP POLICY agentapi_say ON public.chat_messages;
DROP POLICY agentapi_read ON public.chat_messages;
CREATE POLICY agentapi_writer_read ON public.chat_messages FOR SELECT TO agentapi_writer USING (
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));
CREATE POLICY agentapi_writer_say ON public.chat_messages FOR INSERT TO agentapi_writer WITH CHECK (
    (SELECT agentapi.may_chat()) AND
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));
GRANT SELECT, INSERT ON public.chat_messages TO agentapi_writer;

DROP POLICY agentapi_own ON agentapi.turns;
-- Written as a pair, which no index serves: the program's statements name a turn or a session, and for a user of many
-- turns the planner would rather read all of theirs.
CREATE POLICY agentapi_writer_read ON agentapi.turns FOR SELECT TO agentapi_writer
    USING ((user_id, org_id) IN (SELECT auth.uid(), agentapi.bound_organization()));
CREATE POLICY agentapi_writer_new ON agentapi.turns FOR INSERT TO agentapi_writer
    WITH CHECK (user_id = (SELECT auth.uid()) AND org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
                AND org_id = (SELECT agentapi.bound_organization()) AND (SELECT agentapi.may_chat()));
CREATE POLICY agentapi_writer_change ON agentapi.turns FOR UPDATE TO agentapi_writer
    USING ((user_id, org_id) IN (SELECT auth.uid(), agentapi.bound_organization()) AND (SELECT agentapi.may_chat()));
GRANT SELECT, INSERT, UPDATE ON agentapi.turns TO agentapi_writer;

DROP POLICY agentapi_own ON agentapi.idempotency_keys;
CREATE POLICY agentapi_writer ON agentapi.idempotency_keys TO agentapi_writer
    USING (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization())
           AND (SELECT agentapi.may_chat()));
GRANT SELECT, INSERT, UPDATE ON agentapi.idempotency_keys TO agentapi_writer;
GRANT SELECT ON agentapi.agent_names, agentapi.model_names, agentapi.own_organizations TO agentapi_writer;

-- The reader, `authenticated`: an outside client by the first policy of each pair, as a member now; the program by the
-- second, which holds whatever else is permitted here. Each asks for messages once.
CREATE POLICY agentapi_own ON public.chat_sessions TO authenticated
    USING ((SELECT agentapi.bound_organization()) IS NOT NULL
           OR user_id = (SELECT auth.uid())
              AND (org_id IS NULL OR org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])))
    WITH CHECK (user_id = (SELECT auth.uid())
                AND (org_id IS NULL OR org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])));
CREATE POLICY agentapi_bound ON public.chat_sessions AS RESTRICTIVE TO authenticated
    USING ((SELECT agentapi.bound_organization()) IS NULL
           OR user_id = (SELECT auth.uid()) AND org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
              AND (SELECT agentapi.may_see()));
CREATE POLICY agentapi_own ON public.chat_messages FOR SELECT TO authenticated USING (
    (SELECT agentapi.bound_organization()) IS NOT NULL OR
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));
-- Where the program reads one session, it says which: that is then looked for once, and not for each message.
CREATE POLICY agentapi_bound ON public.chat_messages AS RESTRICTIVE FOR SELECT TO authenticated USING (
    (SELECT agentapi.bound_organization()) IS NULL OR
    session_id = (SELECT s.id FROM public.chat_sessions s
                   WHERE s.id = (SELECT agentapi.bound_session()) AND s.user_id = (SELECT auth.uid())) OR
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));
-- Where the program counts messages: a policy would be asked of each message, this asks of each session.
CREATE VIEW agentapi.own_message_counts WITH (security_barrier = true) AS
SELECT s.id AS session_id, (SELECT count(*) FROM public.chat_messages c WHERE c.session_id = s.id) AS messages
  FROM public.chat_sessions s
 WHERE s.user_id = (SELECT auth.uid()) AND s.org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
   AND ((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see()));
REVOKE ALL ON agentapi.own_message_counts FROM anon, authenticated;
GRANT SELECT ON agentapi.own_message_counts TO authenticated, agentapi_writer;

CREATE POLICY agentapi_own ON agentapi.turns FOR SELECT TO authenticated
    USING ((user_id, org_id) IN (SELECT auth.uid(), o FROM unnest(agentapi.own_organization_ids()) AS o)
           AND ((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see())));

-- Columns, and no writes. An agent's own handle and what makes a turn unique are nobody's to read.
REVOKE ALL ON public.chat_messages, agentapi.turns, agentapi.idempotency_keys FROM authenticated;
GRANT SELECT (id, session_id, role, content, tokens_in, tokens_out, tokens_total, metadata, created_at)
    ON public.chat_messages TO authenticated;
GRANT SELECT (id, session_id, user_id, org_id, user_message_id, assistant_message_id, agent_id, agent_name, backend,
    model_row_id, model_name, status, partial_text, lease_until, cancel_requested_at, delivered_at, end_reason, stop_reason,
    error, warning, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd, cost_source, billing_may_go_on,
    latency_ms, time_to_first_token_ms, model_used, provider, route, history_dropped, created_at, ended_at)
    ON agentapi.turns TO authenticated;
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON public.agents, public.models, public.agent_health, public.mcp_sessions
    FROM anon, authenticated;
DO $$
DECLARE
    writes text;
BEGIN
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'mcp_sessions' AND value = 'ours') THEN
        DROP POLICY agentapi_own ON public.mcp_sessions;
        CREATE POLICY agentapi_own ON public.mcp_sessions FOR SELECT TO authenticated
            USING (user_id = (SELECT auth.uid()));
        REVOKE ALL ON public.mcp_sessions FROM authenticated;
        GRANT SELECT (id, user_id, session_id, mcp_state, created_at, expires_at, updated_at)
            ON public.mcp_sessions TO authenticated;
    END IF;
    SELECT string_agg(format('%s may write %s', r.rolname, t.oid::regclass), ', ' ORDER BY r.rolname, t.relname)
      INTO writes
      FROM pg_class t, pg_roles r
     WHERE r.rolname IN ('anon', 'authenticated')
       AND t.oid = ANY (ARRAY['public.chat_messages', 'public.agents', 'public.models', 'public.agent_health',
                              'public.mcp_sessions', 'agentapi.turns', 'agentapi.idempotency_keys']::regclass[])
       AND (has_table_privilege(r.oid, t.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
            OR has_any_column_privilege(r.oid, t.oid, 'INSERT, UPDATE'));
    IF writes IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            '%s, by a grant to PUBLIC or by another role than %s: revoke that', writes, current_user);
    END IF;
END
$$;
