-- needs: 0.1.0
-- What must be here and of which type, and what this login may do. Everything that does not fit is named at once, and
-- nothing is made before all of it does.
DO $$
DECLARE
    faults text[] := '{}';
    nine CONSTANT text[] := ARRAY['profiles', 'organizations', 'organization_members', 'mcp_sessions', 'agents', 'models',
                                  'chat_sessions', 'chat_messages', 'agent_health'];
    roles CONSTANT text[] := ARRAY['anon', 'authenticated', 'service_role', 'agentapi_system'];
    may_create_roles CONSTANT boolean := (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user);
BEGIN
    -- What the login may do.
    IF NOT (has_schema_privilege('public', 'USAGE') AND has_schema_privilege('public', 'CREATE')) THEN
        faults := faults || format('the login lacks GRANT USAGE, CREATE ON SCHEMA public TO %I', current_user);
    END IF;
    faults := faults || ARRAY(
        SELECT format('the role %s is missing and the login may not create it: CREATE ROLE %I NOLOGIN NOINHERIT', w, w)
          FROM unnest(roles) AS w
         WHERE NOT may_create_roles AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = w));
    faults := faults || ARRAY(
        SELECT format('the role %s must not be a superuser, nor bypass row-level security', rolname)
          FROM pg_roles
         WHERE rolname IN ('anon', 'authenticated', 'agentapi_system') AND (rolsuper OR rolbypassrls));
    faults := faults || ARRAY(
        SELECT format('the role %s must not log in', rolname)
          FROM pg_roles WHERE rolname = 'agentapi_system' AND rolcanlogin);
    faults := faults || ARRAY(
        SELECT format('public.%s belongs to %s: migrate as that role, or as a member of it', r.relname,
                      pg_get_userbyid(r.relowner))
          FROM pg_class r
         WHERE r.relnamespace = to_regnamespace('public')
           AND r.relname = ANY (nine || ARRAY['v_recent_sessions', 'v_agent_status'])
           AND NOT pg_has_role(current_user, r.relowner, 'USAGE')
         ORDER BY r.relname);
    faults := faults || ARRAY(
        SELECT format('the login lacks GRANT REFERENCES ON public.%I TO %I', w, current_user)
          FROM unnest(ARRAY['profiles', 'organizations', 'agents', 'models', 'chat_sessions']) AS w
         WHERE to_regclass('public.' || w) IS NOT NULL AND NOT has_table_privilege('public.' || w, 'REFERENCES'));

    -- auth.uid(), which is Supabase's own or made by the next file.
    IF to_regnamespace('auth') IS NULL THEN
        IF NOT has_database_privilege(current_database(), 'CREATE') THEN
            faults := faults || format('the login lacks GRANT CREATE ON DATABASE %I TO %I', current_database(),
                                       current_user);
        END IF;
    ELSIF NOT has_schema_privilege('auth', 'USAGE') THEN
        faults := faults || format('the login lacks GRANT USAGE ON SCHEMA auth TO %I', current_user);
    ELSIF to_regprocedure('auth.uid()') IS NULL THEN
        IF NOT has_schema_privilege('auth', 'CREATE') THEN
            faults := faults || format('the schema auth has no function uid(), and the login lacks '
                                       'GRANT CREATE ON SCHEMA auth TO %I', current_user);
        END IF;
    ELSE
        faults := faults || ARRAY(
            SELECT format('auth.uid() must return uuid, it returns %s', format_type(prorettype, NULL))
              FROM pg_proc WHERE oid = to_regprocedure('auth.uid()') AND prorettype <> 'uuid'::regtype);
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'authenticated')
           AND NOT has_function_privilege('authenticated', 'auth.uid()', 'EXECUTE') THEN
            faults := faults || 'authenticated lacks GRANT EXECUTE ON FUNCTION auth.uid() TO authenticated'::text;
        END IF;
    END IF;

    -- What kind of thing stands under our names.
    faults := faults || ARRAY(
        SELECT format('public.%s must be a table', r.relname)
          FROM pg_class r
         WHERE r.relnamespace = to_regnamespace('public') AND r.relname = ANY (nine) AND r.relkind NOT IN ('r', 'p')
         ORDER BY r.relname);
    faults := faults || ARRAY(
        SELECT format('public.%s must be a view', r.relname)
          FROM pg_class r
         WHERE r.relnamespace = to_regnamespace('public') AND r.relname IN ('v_recent_sessions', 'v_agent_status')
           AND r.relkind <> 'v'
         ORDER BY r.relname);
    -- With its reader's rights a view stays what it was only if its readers can read all that it reads.
    faults := faults || ARRAY(
        SELECT DISTINCT format('the view public.%s must read %s, and of other tables none: it reads %s', w.v, w.base,
                               coalesce(found.tables, 'none'))
          FROM (VALUES ('v_recent_sessions', 'chat_sessions'), ('v_agent_status', 'agents')) AS w (v, base)
          JOIN pg_class r ON r.oid = to_regclass('public.' || w.v) AND r.relkind = 'v'
          CROSS JOIN LATERAL (
               SELECT string_agg(DISTINCT d.refobjid::regclass::text, ', ') AS tables,
                      bool_or(d.refobjid = to_regclass('public.' || w.base)) AS has_base,
                      bool_or(NOT d.refobjid = ANY (SELECT to_regclass('public.' || t) FROM unnest(nine) AS t)) AS has_other
                 FROM pg_rewrite v
                 JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = v.oid
                                 AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.oid
                WHERE v.ev_class = r.oid) found
         WHERE found.has_base IS NOT TRUE OR found.has_other);
    IF to_regproc('public.update_updated_at_column') IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_proc WHERE oid = to_regprocedure('public.update_updated_at_column()')
                              AND prorettype = 'trigger'::regtype) THEN
        faults := faults || 'public.update_updated_at_column must be a trigger function without arguments'::text;
    END IF;

    -- The columns that the program reads and writes; others may stand beside them.
    faults := faults || ARRAY(
        SELECT format('public.%s.%s must be %s, it is %s', w.t, w.c,
                      CASE WHEN w.size > 0 THEN format('text, or character varying(%s) or longer', w.size)
                           WHEN w.kind = 'integer' THEN 'integer or bigint' ELSE w.kind END,
                      coalesce(format_type(a.atttypid, a.atttypmod), 'missing'))
          FROM (VALUES
            ('profiles', 'id', 'uuid', 0), ('organizations', 'id', 'uuid', 0), ('organizations', 'settings', 'jsonb', 0),
            ('organization_members', 'user_id', 'uuid', 0), ('organization_members', 'organization_id', 'uuid', 0),
            ('mcp_sessions', 'user_id', 'uuid', 0), ('mcp_sessions', 'session_id', 'text', 255),
            ('mcp_sessions', 'mcp_state', 'jsonb', 0), ('mcp_sessions', 'oauth_data', 'jsonb', 0),
            ('mcp_sessions', 'expires_at', 'timestamp with time zone', 0),
            ('mcp_sessions', 'updated_at', 'timestamp with time zone', 0),
            ('agents', 'id', 'uuid', 0), ('agents', 'name', 'text', 255), ('agents', 'type', 'text', 50),
            ('agents', 'description', 'text', 0), ('agents', 'enabled', 'boolean', 0), ('agents', 'config', 'jsonb', 0),
            ('models', 'id', 'uuid', 0), ('models', 'agent_id', 'uuid', 0), ('models', 'name', 'text', 255),
            ('models', 'display_name', 'text', 255), ('models', 'description', 'text', 0),
            ('models', 'provider', 'text', 100), ('models', 'model_id', 'text', 255), ('models', 'enabled', 'boolean', 0),
            ('models', 'config', 'jsonb', 0),
            ('chat_sessions', 'id', 'uuid', 0), ('chat_sessions', 'user_id', 'uuid', 0),
            ('chat_sessions', 'org_id', 'uuid', 0), ('chat_sessions', 'model_id', 'uuid', 0),
            ('chat_sessions', 'agent_id', 'uuid', 0), ('chat_sessions', 'title', 'text', 255),
            ('chat_sessions', 'metadata', 'jsonb', 0),
            ('chat_sessions', 'last_message_at', 'timestamp with time zone', 0),
            ('chat_sessions', 'created_at', 'timestamp with time zone', 0),
            ('chat_messages', 'id', 'uuid', 0), ('chat_messages', 'session_id', 'uuid', 0),
            ('chat_messages', 'role', 'text', 50), ('chat_messages', 'content', 'text', 0),
            ('chat_messages', 'tokens_in', 'integer', 0), ('chat_messages', 'tokens_out', 'integer', 0),
            ('chat_messages', 'tokens_total', 'integer', 0), ('chat_messages', 'metadata', 'jsonb', 0),
            ('chat_messages', 'created_at', 'timestamp with time zone', 0),
            ('agent_health', 'agent_id', 'uuid', 0), ('agent_health', 'status', 'text', 50),
            ('agent_health', 'last_check', 'timestamp with time zone', 0), ('agent_health', 'last_error', 'text', 500),
            ('agent_health', 'consecutive_failures', 'integer', 0)
          ) AS w (t, c, kind, size)
          JOIN pg_class r ON r.oid = to_regclass('public.' || w.t) AND r.relkind IN ('r', 'p')
          LEFT JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = w.c AND a.attnum > 0 AND NOT a.attisdropped
         WHERE a.attname IS NULL OR NOT CASE w.kind
                   WHEN 'text' THEN a.atttypid = 'text'::regtype OR (a.atttypid = 'varchar'::regtype
                                    AND (a.atttypmod = -1 OR (w.size > 0 AND a.atttypmod - 4 >= w.size)))
                   WHEN 'integer' THEN a.atttypid IN ('integer'::regtype, 'bigint'::regtype)
                   ELSE a.atttypid = w.kind::regtype END);
    faults := faults || ARRAY(
        SELECT format('public.%s.%s must have a default or allow null, since the program does not know it',
                      w.t, a.attname)
          FROM (VALUES
            ('agents', ARRAY['name', 'type', 'description', 'enabled', 'config']),
            ('models', ARRAY['agent_id', 'name', 'model_id', 'provider', 'display_name', 'description', 'enabled',
                             'config']),
            ('chat_sessions', ARRAY['id', 'user_id', 'org_id', 'model_id', 'agent_id', 'title', 'created_at',
                                    'last_message_at']),
            ('chat_messages', ARRAY['id', 'session_id', 'role', 'content', 'tokens_in', 'tokens_out', 'tokens_total',
                                    'metadata', 'created_at']),
            ('agent_health', ARRAY['agent_id', 'status', 'last_check', 'last_error', 'consecutive_failures'])
          ) AS w (t, written)
          JOIN pg_attribute a ON a.attrelid = to_regclass('public.' || w.t) AND a.attnum > 0 AND NOT a.attisdropped
         WHERE a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT a.attname = ANY (w.written));
    faults := faults || ARRAY(
        SELECT format('public.%s.%s must allow null', w.t, w.c)
          FROM (VALUES
            ('models', 'display_name'), ('models', 'description'), ('chat_sessions', 'model_id'),
            ('chat_sessions', 'agent_id'), ('chat_sessions', 'title'), ('chat_messages', 'tokens_in'),
            ('chat_messages', 'tokens_out'), ('chat_messages', 'tokens_total'), ('agent_health', 'last_error')
          ) AS w (t, c)
          JOIN pg_attribute a ON a.attrelid = to_regclass('public.' || w.t) AND a.attname = w.c
                             AND a.attnotnull AND NOT a.attisdropped);

    -- What makes rows found again and deleted together.
    faults := faults || ARRAY(
        SELECT format('public.%s must have a primary key or unique constraint on (%s)', w.t,
                      array_to_string(w.columns, ', '))
          FROM (VALUES
            ('profiles', ARRAY['id']), ('organizations', ARRAY['id']), ('agents', ARRAY['id']), ('agents', ARRAY['name']),
            ('models', ARRAY['id']), ('models', ARRAY['agent_id', 'name']), ('chat_sessions', ARRAY['id']),
            ('chat_messages', ARRAY['id']), ('agent_health', ARRAY['agent_id'])
          ) AS w (t, columns)
          JOIN pg_class r ON r.oid = to_regclass('public.' || w.t) AND r.relkind IN ('r', 'p')
         WHERE NOT EXISTS (
               SELECT FROM pg_index i
                WHERE i.indrelid = r.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
                  AND i.indexprs IS NULL
                  AND w.columns = (SELECT array_agg(a.attname::text ORDER BY a.attname)
                                     FROM pg_attribute a
                                    WHERE a.attrelid = r.oid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]))));
    faults := faults || ARRAY(
        SELECT 'public.chat_messages.session_id must reference public.chat_sessions (id) with ON DELETE CASCADE'::text
         WHERE to_regclass('public.chat_messages') IS NOT NULL AND NOT EXISTS (
               SELECT FROM pg_constraint k
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND k.conkey = ARRAY[a.attnum]
                WHERE k.conrelid = to_regclass('public.chat_messages') AND k.contype = 'f' AND k.confdeltype = 'c'
                  AND k.confrelid = to_regclass('public.chat_sessions') AND a.attname = 'session_id'));

    -- Names that ours would meet, and policies that would hide every row from the program itself.
    faults := faults || ARRAY(
        SELECT format('%s has a policy named %s, a name that the program needs', p.polrelid::regclass, p.polname)
          FROM pg_policy p
         WHERE p.polrelid = ANY (SELECT to_regclass('public.' || t) FROM unnest(nine) AS t)
           AND p.polname LIKE 'agentapi\_%');
    faults := faults || ARRAY(
        SELECT format('the restrictive policy %s on %s holds for every role: name the roles it is for', p.polname,
                      p.polrelid::regclass)
          FROM pg_policy p
         WHERE p.polrelid = ANY (SELECT to_regclass('public.' || t) FROM unnest(nine) AS t)
           AND NOT p.polpermissive AND p.polroles = ARRAY[0]::oid[]);
    faults := faults || ARRAY(
        SELECT format('there is something named public.%s, a name that the program needs', w)
          FROM unnest(ARRAY['agentapi_messages_order', 'agentapi_sessions_order']) AS w
         WHERE to_regclass('public.' || w) IS NOT NULL);

    IF cardinality(faults) > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The database does not fit, seen as the login %s: %s', current_user, array_to_string(faults, '; '));
    END IF;
END
$$;
