-- needs: 0.1.0
-- What a database permits by policies of its own, many of which are TO PUBLIC, neither stops the program's writer nor
-- widens what it may do.

-- The writer: its own rows, whatever else is permitted there.
CREATE POLICY agentapi_writer_bound ON public.chat_sessions AS RESTRICTIVE TO agentapi_writer
    USING (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization()));
-- Messages are asked for their session once: by this, which holds beside every other policy.
DROP POLICY agentapi_writer_read ON public.chat_messages;
DROP POLICY agentapi_writer_say ON public.chat_messages;
CREATE POLICY agentapi_writer_read ON public.chat_messages FOR SELECT TO agentapi_writer USING (true);
CREATE POLICY agentapi_writer_say ON public.chat_messages FOR INSERT TO agentapi_writer
    WITH CHECK ((SELECT agentapi.may_chat()));
CREATE POLICY agentapi_writer_bound ON public.chat_messages AS RESTRICTIVE TO agentapi_writer USING (
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));
CREATE POLICY agentapi_writer_bound ON public.organizations AS RESTRICTIVE TO agentapi_writer
    USING (id = (SELECT agentapi.bound_organization()) AND id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
           AND (SELECT agentapi.may('organization:read', '{admin,owner}', 'admin')))
    WITH CHECK ((SELECT agentapi.may('organization:edit', '{admin,owner}', 'admin')));

-- Policies TO PUBLIC are asked with the writer's rights: it may read the columns that they read, row by row as the
-- policies of those tables say. What it still may not is named.
DO $$
DECLARE
    seen oid[] := ARRAY['public.chat_sessions', 'public.chat_messages', 'public.organizations']::regclass[]::oid[];
    done integer := 0;
    lacks text;
    r record;
BEGIN
    WHILE done < cardinality(seen) LOOP
        done := done + 1;
        FOR r IN SELECT DISTINCT d.refobjid AS rel, a.attname AS col, p.polname, p.polrelid
                   FROM pg_policy p
                   JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                                   AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
                   JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                  WHERE p.polrelid = seen[done] AND p.polroles = '{0}' LOOP
            IF NOT has_column_privilege('agentapi_writer', r.rel, r.col, 'SELECT') THEN
                BEGIN
                    EXECUTE format('GRANT SELECT (%I) ON %s TO agentapi_writer', r.col, r.rel::regclass);
                EXCEPTION WHEN insufficient_privilege THEN
                    NULL;
                END;
                IF NOT has_column_privilege('agentapi_writer', r.rel, r.col, 'SELECT') THEN
                    lacks := concat_ws('; ', lacks, format(
                        'the policy %I on %s, which holds for PUBLIC, reads %s.%I, and %s may not let agentapi_writer read '
                        'that: ALTER POLICY %I ON %s TO authenticated', r.polname, r.polrelid::regclass, r.rel::regclass,
                        r.col, current_user, r.polname, r.polrelid::regclass));
                END IF;
            END IF;
            IF NOT r.rel = ANY (seen) THEN
                seen := seen || r.rel;
            END IF;
        END LOOP;
    END LOOP;
    IF lacks IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The database does not fit, seen as the login %s: %s', current_user, lacks);
    END IF;
END
$$;

-- Readers from outside: columns of what was there before, too. The program's clients are in `mcp_sessions` now.
REVOKE SELECT ON public.agents, public.models, public.agent_health, public.mcp_sessions FROM anon, authenticated;
GRANT SELECT (id, name, type, description, enabled, created_at, updated_at) ON public.agents TO authenticated;
GRANT SELECT (id, agent_id, name, display_name, description, provider, model_id, enabled, created_at, updated_at)
    ON public.models TO authenticated;
GRANT SELECT (id, agent_id, status, last_check, consecutive_failures) ON public.agent_health TO authenticated;
DO $$
DECLARE
    reads text;
BEGIN
    -- Without row-level security everybody's rows would be read; switching it on is for whoever else uses the table.
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = 'public.mcp_sessions'::regclass) THEN
        GRANT SELECT (user_id, session_id, mcp_state, created_at, expires_at, updated_at)
            ON public.mcp_sessions TO authenticated;
        CREATE POLICY agentapi_bound ON public.mcp_sessions AS RESTRICTIVE TO anon, authenticated
            USING (user_id = (SELECT auth.uid()));
    END IF;
    SELECT string_agg(format('%s may read %s', s.role, s.what), ', ' ORDER BY s.role, s.what) INTO reads
      FROM (SELECT r.role, w.what, w.rel, w.col
              FROM (VALUES ('anon'), ('authenticated')) AS r (role),
                   (VALUES ('config of public.agents', 'public.agents', 'config'),
                           ('config of public.models', 'public.models', 'config'),
                           ('last_error of public.agent_health', 'public.agent_health', 'last_error'),
                           ('oauth_data of public.mcp_sessions', 'public.mcp_sessions', 'oauth_data')) AS w (what, rel, col)
            UNION ALL
            SELECT 'anon', 'public.mcp_sessions', 'public.mcp_sessions', 'mcp_state') AS s
     WHERE has_column_privilege(s.role, s.rel, s.col, 'SELECT');
    IF reads IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            '%s, by a grant to PUBLIC or by another role than %s: revoke that', reads, current_user);
    END IF;
END
$$;
