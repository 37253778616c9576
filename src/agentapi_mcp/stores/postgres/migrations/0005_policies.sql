-- needs: 0.1.0
-- Default privileges may have given away what we made; rights to it begin here.
REVOKE ALL ON SCHEMA agentapi FROM anon, authenticated;
REVOKE ALL ON ALL TABLES IN SCHEMA agentapi FROM anon, authenticated;
GRANT USAGE ON SCHEMA agentapi TO authenticated;
GRANT SELECT ON agentapi.agent_names, agentapi.model_names TO authenticated;

-- Own rows for `authenticated`; everything for the program's own role, which no outside client can take; nothing for
-- `anon`. The four tables that were there before, where they were, keep their row-level security, policies and grants.
DO $$
DECLARE
    t text;
    kept CONSTANT text[] := ARRAY(
        SELECT 'public.' || w FROM unnest(ARRAY['profiles', 'organizations', 'organization_members', 'mcp_sessions']) AS w
         WHERE NOT EXISTS (SELECT FROM agentapi.facts f WHERE f.name = w AND f.value = 'ours'));
    guarded CONSTANT text[] := ARRAY['public.profiles', 'public.organizations', 'public.organization_members',
        'public.mcp_sessions', 'public.agents', 'public.models', 'public.chat_sessions', 'public.chat_messages',
        'public.agent_health', 'agentapi.turns', 'agentapi.idempotency_keys', 'agentapi.local_identity',
        'agentapi.catalogue_files'];
BEGIN
    -- Tables that we made have been given away by whatever default privileges there are.
    FOR t IN SELECT name FROM agentapi.facts WHERE value = 'ours' ORDER BY name LOOP
        EXECUTE format('REVOKE ALL ON public.%I FROM anon, authenticated', t);
    END LOOP;
    -- A reader who could see no row of a table does not come to see what its owner put into `config`: the program itself
    -- reads names through views of its own.
    FOREACH t IN ARRAY ARRAY['agents', 'models', 'agent_health'] LOOP
        IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass('public.' || t))
           OR NOT has_column_privilege('authenticated', 'public.' || t,
                                       CASE t WHEN 'agent_health' THEN 'last_error' ELSE 'config' END, 'SELECT') THEN
            EXECUTE format('CREATE POLICY agentapi_read ON public.%I FOR SELECT TO authenticated USING (true)', t);
        END IF;
    END LOOP;
    FOREACH t IN ARRAY guarded LOOP
        EXECUTE format('CREATE POLICY agentapi_system ON %s TO agentapi_system USING (true) WITH CHECK (true)', t);
        IF NOT t = ANY (kept) THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO agentapi_system', t);
        END IF;
    END LOOP;
    FOREACH t IN ARRAY ARRAY['agentapi.migrations', 'agentapi.facts'] LOOP
        EXECUTE format('CREATE POLICY agentapi_system ON %s FOR SELECT TO agentapi_system USING (true)', t);
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
    END LOOP;
    IF 'public.profiles' = ANY (kept) THEN
        GRANT SELECT (id) ON public.profiles TO agentapi_system;
    ELSE
        CREATE POLICY agentapi_own ON public.profiles FOR SELECT TO authenticated USING (id = (SELECT auth.uid()));
        GRANT SELECT (id) ON public.profiles TO authenticated;
    END IF;
    IF 'public.organizations' = ANY (kept) THEN
        GRANT SELECT (id, settings) ON public.organizations TO agentapi_system;
    END IF;
    IF 'public.organization_members' = ANY (kept) THEN
        GRANT SELECT (organization_id, user_id, role) ON public.organization_members TO agentapi_system;
    END IF;
    IF 'public.mcp_sessions' = ANY (kept) THEN
        GRANT SELECT (user_id, session_id), INSERT (user_id, session_id, mcp_state, oauth_data, expires_at),
            UPDATE (mcp_state, expires_at, updated_at) ON public.mcp_sessions TO agentapi_system;
    ELSE
        CREATE POLICY agentapi_own ON public.mcp_sessions TO authenticated
            USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
        GRANT SELECT, INSERT, UPDATE ON public.mcp_sessions TO authenticated;
    END IF;
END
$$;

CREATE POLICY agentapi_own ON public.chat_sessions TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
-- Said is said: there is no policy to change or take back a message. OFFSET 0 keeps the planner from hashing the query,
-- which would read all sessions of all users for one page of messages.
CREATE POLICY agentapi_read ON public.chat_messages FOR SELECT TO authenticated USING (
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));
CREATE POLICY agentapi_say ON public.chat_messages FOR INSERT TO authenticated WITH CHECK (
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));
CREATE POLICY agentapi_own ON agentapi.turns TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
CREATE POLICY agentapi_own ON agentapi.idempotency_keys TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));

-- Columns, not tables: the configuration of an agent may hold what its owner should not have put there.
GRANT SELECT (id, name, type, description, enabled, created_at, updated_at) ON public.agents TO authenticated;
GRANT SELECT (id, agent_id, name, display_name, description, provider, model_id, enabled, created_at, updated_at)
    ON public.models TO authenticated;
GRANT SELECT (id, agent_id, status, last_check, consecutive_failures) ON public.agent_health TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.chat_sessions TO authenticated;
GRANT SELECT, INSERT ON public.chat_messages TO authenticated;
GRANT SELECT, INSERT, UPDATE ON agentapi.turns TO authenticated;
GRANT SELECT, INSERT, UPDATE ON agentapi.idempotency_keys TO authenticated;

REVOKE ALL ON public.agents, public.models, public.chat_sessions, public.chat_messages, public.agent_health,
    public.v_recent_sessions, public.v_agent_status FROM anon;
DO $$
DECLARE
    open_to_anon text;
BEGIN
    SELECT string_agg(r.oid::regclass::text, ', ' ORDER BY r.relname) INTO open_to_anon
      FROM pg_class r
     WHERE (r.relnamespace = to_regnamespace('agentapi') AND r.relkind IN ('r', 'v')
            OR r.relnamespace = to_regnamespace('public') AND r.relname = ANY (ARRAY['agents', 'models', 'chat_sessions',
               'chat_messages', 'agent_health', 'v_recent_sessions', 'v_agent_status']))
       AND (has_table_privilege('anon', r.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
            OR has_any_column_privilege('anon', r.oid, 'SELECT, INSERT, UPDATE, REFERENCES'));
    IF open_to_anon IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'anon may use %s, by a grant to PUBLIC or by another role than %s: revoke that', open_to_anon, current_user);
    END IF;
END
$$;
