-- needs: 0.1.0
DO $$
BEGIN
    IF to_regclass('public.agentapi_sessions_owner') IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE =
            'There is something named public.agentapi_sessions_owner, a name that the program needs';
    END IF;
END
$$;

-- What a member may know of their organisations: the defaults of their own chats, and no other key of `settings`. So one
-- statement reads them beside the session, without the program's own role.
CREATE VIEW agentapi.own_organizations WITH (security_barrier = true) AS
SELECT o.id, jsonb_strip_nulls(jsonb_build_object(
           'default_agent', o.settings -> 'default_agent',
           'default_model', o.settings -> 'default_model',
           'temperature', o.settings -> 'temperature',
           'max_tokens', o.settings -> 'max_tokens',
           'system_prompt', o.settings -> 'system_prompt')) AS settings
  FROM public.organizations o
 WHERE EXISTS (SELECT FROM public.organization_members m
                WHERE m.organization_id = o.id AND m.user_id = (SELECT auth.uid()));
REVOKE ALL ON agentapi.own_organizations FROM anon, authenticated;
GRANT SELECT ON agentapi.own_organizations TO authenticated;

-- The policies of messages ask for each message whose session it is. Without this the planner reads all sessions of a user
-- for each, from the index of their order.
CREATE UNIQUE INDEX agentapi_sessions_owner ON public.chat_sessions (id, user_id);
