-- needs: 0.1.0
-- Own rows for `authenticated`; everything for the program's own role, which no outside client can take.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY[
        'public.profiles', 'public.organizations', 'public.organization_members', 'public.mcp_sessions', 'public.agents',
        'public.models', 'public.chat_sessions', 'public.chat_messages', 'public.agent_health', 'agentapi.turns',
        'agentapi.idempotency_keys', 'agentapi.local_identity', 'agentapi.catalogue_files'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY agentapi_system ON %s TO agentapi_system USING (true) WITH CHECK (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO agentapi_system', t);
    END LOOP;
END
$$;

CREATE POLICY agentapi_read ON public.agents FOR SELECT TO authenticated USING (true);
CREATE POLICY agentapi_read ON public.models FOR SELECT TO authenticated USING (true);
CREATE POLICY agentapi_read ON public.agent_health FOR SELECT TO authenticated USING (true);
CREATE POLICY agentapi_own ON public.profiles FOR SELECT TO authenticated USING (id = (SELECT auth.uid()));
CREATE POLICY agentapi_own ON public.mcp_sessions TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
CREATE POLICY agentapi_own ON public.chat_sessions TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
CREATE POLICY agentapi_own ON public.chat_messages TO authenticated
    USING (EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid())))
    WITH CHECK (EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid())));
CREATE POLICY agentapi_own ON agentapi.turns TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
CREATE POLICY agentapi_own ON agentapi.idempotency_keys TO authenticated
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));

-- Columns, not tables: the configuration of an agent may hold what its owner should not have put there.
GRANT SELECT (id, name, type, description, enabled, created_at, updated_at) ON public.agents TO authenticated;
GRANT SELECT (id, agent_id, name, display_name, description, provider, model_id, enabled, created_at, updated_at)
    ON public.models TO authenticated;
GRANT SELECT (id, agent_id, status, last_check, consecutive_failures) ON public.agent_health TO authenticated;
GRANT SELECT (id) ON public.profiles TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.chat_sessions TO authenticated;
GRANT SELECT, INSERT ON public.chat_messages TO authenticated;
GRANT SELECT, INSERT, UPDATE ON agentapi.turns TO authenticated;
GRANT SELECT, INSERT, UPDATE ON agentapi.idempotency_keys TO authenticated;
GRANT SELECT, INSERT, UPDATE ON public.mcp_sessions TO authenticated;
