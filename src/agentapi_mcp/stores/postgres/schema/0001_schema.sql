-- needs: 0.1.0
-- The schema of agentapi-mcp, for a database of its own and for an existing one, such as an organisation's Supabase
-- project. `public` holds the tables that AgentAPI deployments share; all else is in the schema `agentapi`. Sections:
--   1. Checks of an existing database    7. Privileges and policies of agentapi_system
--   2. Roles and auth.uid()              8. Privileges and policies of authenticated
--   3. Tables of public                  9. Privileges and policies of agentapi_writer
--   4. Tables of agentapi               10. Privileges and policies of the audit log
--   5. Functions                        11. Columns that policies for PUBLIC read
--   6. Views                            12. Checks of what was granted


-- 1. Checks of an existing database: types, keys, names, and the rights of this login. Nothing is created before all of
--    them pass; a refusal names every fault.
DO $$
DECLARE
    faults text[] := '{}';
    nine CONSTANT text[] := ARRAY['profiles', 'organizations', 'organization_members', 'mcp_sessions', 'agents', 'models',
                                  'chat_sessions', 'chat_messages', 'agent_health'];
    roles CONSTANT text[] := ARRAY['anon', 'authenticated', 'service_role', 'agentapi_system',
                                   'agentapi_writer'];
    may_create_roles CONSTANT boolean := (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user);
BEGIN
    -- Rights of the login.
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
         WHERE rolname IN ('anon', 'authenticated', 'agentapi_system', 'agentapi_writer')
           AND (rolsuper OR rolbypassrls));
    faults := faults || ARRAY(
        SELECT format('the role %s must not log in', rolname)
          FROM pg_roles WHERE rolname IN ('agentapi_system', 'agentapi_writer') AND rolcanlogin);
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

    -- auth.uid(), Supabase's own, or made in section 2.
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

    -- Kinds of the objects that have our names.
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
    -- With security_invoker a view returns the same rows as before only if it reads no other tables.
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

    -- Types of the columns that the program reads and writes; there may be others.
    faults := faults || ARRAY(
        SELECT format('public.%s.%s must be %s, it is %s', w.t, w.c,
                      CASE WHEN w.size > 0 THEN format('text, or character varying(%s) or longer', w.size)
                           WHEN w.kind = 'integer' THEN 'integer or bigint' ELSE w.kind END,
                      coalesce(format_type(a.atttypid, a.atttypmod), 'missing'))
          FROM (VALUES
            ('profiles', 'id', 'uuid', 0), ('profiles', 'email', 'text', 1), ('profiles', 'workos_id', 'text', 1),
            ('profiles', 'current_organization_id', 'uuid', 0), ('organizations', 'id', 'uuid', 0),
            ('organizations', 'name', 'text', 1), ('organizations', 'settings', 'jsonb', 0),
            ('organization_members', 'user_id', 'uuid', 0), ('organization_members', 'organization_id', 'uuid', 0),
            ('organization_members', 'permissions', 'jsonb', 0),
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

    -- Unique keys, and the foreign key that deletes a session's messages.
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

    -- Names that the program needs, and policies that would hide every row from the program itself.
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
          FROM unnest(ARRAY['agentapi_messages_order', 'agentapi_sessions_order', 'agentapi_sessions_owner',
                           'agentapi_sessions_organization']) AS w
         WHERE to_regclass('public.' || w) IS NOT NULL);

    IF cardinality(faults) > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The database does not fit, seen as the login %s: %s', current_user, array_to_string(faults, '; '));
    END IF;
END
$$;


-- 2. Roles and auth.uid(): what Supabase has and a plain Postgres lacks. Existing ones are not changed.
--    anon, authenticated, service_role   Supabase's; outside clients can take the first two
--    agentapi_system                     the program itself; no outside client can take it
--    agentapi_writer                     the program on behalf of a user, under row-level security; likewise
DO $$
DECLARE
    wanted text;
    login name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['anon', 'authenticated', 'service_role', 'agentapi_system', 'agentapi_writer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', wanted);
        END IF;
    END LOOP;
    -- The login that migrates may also be the one that the program works with. A login that already is a member of
    -- agentapi_system works for another database of this server. Where this login may not grant a role, the program
    -- reports the missing membership at start.
    FOR login, wanted IN
        SELECT current_user, w FROM unnest(ARRAY['authenticated', 'agentapi_system', 'agentapi_writer']) AS w
        UNION
        SELECT m.rolname, 'agentapi_writer' FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member
         WHERE a.roleid = 'agentapi_system'::regrole
    LOOP
        IF NOT pg_has_role(login, wanted, 'MEMBER') OR
            (current_setting('server_version_num')::int >= 160000 AND NOT pg_has_role(login, wanted, 'SET')) THEN
            BEGIN
                EXECUTE format('GRANT %I TO %I', wanted, login);
            EXCEPTION WHEN insufficient_privilege THEN
                NULL;
            END;
        END IF;
    END LOOP;
    IF to_regprocedure('auth.uid()') IS NULL THEN
        CREATE SCHEMA IF NOT EXISTS auth;
        CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
            'SELECT nullif(nullif(current_setting(''request.jwt.claims'', true), '''')::jsonb ->> ''sub'', '''')::uuid';
        GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role, agentapi_system;
    END IF;
    IF NOT has_schema_privilege('agentapi_writer', 'auth', 'USAGE') THEN
        GRANT USAGE ON SCHEMA auth TO agentapi_writer;
    END IF;
    FOREACH wanted IN ARRAY ARRAY['authenticated', 'agentapi_system', 'agentapi_writer'] LOOP
        IF NOT has_schema_privilege(wanted, 'public', 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', wanted);
        END IF;
    END LOOP;
END
$$;


-- 3. Tables of public, in the shape in which they are deployed elsewhere. An existing table keeps its columns, triggers
--    and indexes; it gets the indexes that the program's queries need.

-- Which tables and views of public are created here ('ours'); the program and later migrations act on it.
CREATE TABLE agentapi.facts (
    name text PRIMARY KEY,
    value text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO agentapi.facts (name, value)
SELECT w, 'ours'
  FROM unnest(ARRAY['profiles', 'organizations', 'organization_members', 'mcp_sessions', 'agents', 'models',
                    'chat_sessions', 'chat_messages', 'agent_health', 'v_recent_sessions', 'v_agent_status']) AS w
 WHERE to_regclass('public.' || w) IS NULL;

CREATE TABLE IF NOT EXISTS public.profiles (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text,
    full_name text,
    workos_id text UNIQUE,
    current_organization_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.organizations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    settings jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.organization_members (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    role text NOT NULL DEFAULT 'member',
    permissions jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, user_id)
);

CREATE TABLE IF NOT EXISTS public.mcp_sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    session_id text NOT NULL UNIQUE,
    mcp_state jsonb NOT NULL DEFAULT '{}',
    oauth_data jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.agents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL UNIQUE,
    type varchar(50) NOT NULL,
    description text,
    enabled boolean NOT NULL DEFAULT true,
    config jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.models (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id uuid NOT NULL REFERENCES public.agents (id) ON DELETE CASCADE,
    name varchar(255) NOT NULL,
    display_name varchar(255),
    description text,
    provider varchar(100) NOT NULL,
    model_id varchar(255) NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    config jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (agent_id, name)
);

CREATE TABLE IF NOT EXISTS public.chat_sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    org_id uuid REFERENCES public.organizations (id) ON DELETE CASCADE,
    model_id uuid REFERENCES public.models (id) ON DELETE SET NULL,
    agent_id uuid REFERENCES public.agents (id) ON DELETE SET NULL,
    title varchar(255),
    metadata jsonb NOT NULL DEFAULT '{}',
    last_message_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.chat_messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id uuid NOT NULL REFERENCES public.chat_sessions (id) ON DELETE CASCADE,
    role varchar(50) NOT NULL,
    content text NOT NULL,
    tokens_in integer,
    tokens_out integer,
    tokens_total integer,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.agent_health (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id uuid NOT NULL UNIQUE REFERENCES public.agents (id) ON DELETE CASCADE,
    status varchar(50) NOT NULL DEFAULT 'healthy',
    last_check timestamptz,
    last_error text,
    consecutive_failures integer NOT NULL DEFAULT 0,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE
    t text;
BEGIN
    IF to_regprocedure('public.update_updated_at_column()') IS NULL THEN
        CREATE FUNCTION public.update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.updated_at = now(); RETURN NEW; END';
    END IF;
    FOREACH t IN ARRAY ARRAY['profiles', 'organizations', 'organization_members', 'mcp_sessions', 'agents', 'models',
                             'chat_sessions', 'agent_health'] LOOP
        IF EXISTS (SELECT FROM agentapi.facts WHERE name = t AND value = 'ours') THEN
            EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE ON public.%I FOR EACH ROW '
                           'EXECUTE FUNCTION public.update_updated_at_column()', 'update_' || t || '_updated_at', t);
        END IF;
    END LOOP;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'organization_members' AND value = 'ours') THEN
        CREATE INDEX idx_organization_members_user ON public.organization_members (user_id);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                    WHERE i.indrelid = 'public.chat_sessions'::regclass AND a.attname = 'org_id') THEN
        CREATE INDEX agentapi_sessions_organization ON public.chat_sessions (org_id);
    END IF;
END
$$;
CREATE INDEX agentapi_messages_order ON public.chat_messages (session_id, created_at, id);
CREATE INDEX agentapi_sessions_order
    ON public.chat_sessions (user_id, org_id, (coalesce(last_message_at, created_at)), id);
-- The policies of messages look up the session of each message and its user. Without this index the planner reads all
-- sessions of a user for each message, from agentapi_sessions_order.
CREATE UNIQUE INDEX agentapi_sessions_owner ON public.chat_sessions (id, user_id);


-- 4. Tables of agentapi.

-- Turns: one message and everything done to answer it, with its bill.
CREATE TABLE agentapi.turns (
    id uuid PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES public.chat_sessions (id) ON DELETE CASCADE,
    user_id uuid NOT NULL,
    org_id uuid NOT NULL,
    user_message_id uuid NOT NULL,
    assistant_message_id uuid,
    agent_id uuid,
    agent_name text NOT NULL,
    backend text NOT NULL,
    model_row_id uuid,
    model_name text,
    fingerprint bytea NOT NULL,
    parameters jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL CHECK (status IN ('running', 'input_required', 'completed', 'failed', 'cancelled', 'interrupted')),
    partial_text text NOT NULL DEFAULT '',
    lease_owner uuid,
    lease_until timestamptz,
    cancel_requested_at timestamptz,
    followed_at timestamptz,
    delivered_at timestamptz,
    answered_running_at timestamptz,
    caller_gone_at timestamptz,
    end_reason text,
    stop_reason text,
    error jsonb,
    warning text,
    input_tokens integer,
    output_tokens integer,
    cached_tokens integer,
    reasoning_tokens integer,
    cost_usd numeric,
    cost_source text,
    billing_may_go_on boolean NOT NULL DEFAULT false,
    latency_ms integer,
    time_to_first_token_ms integer,
    model_used text,
    provider text,
    route jsonb NOT NULL DEFAULT '[]',
    history_dropped integer NOT NULL DEFAULT 0,
    backend_state jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    CHECK ((status = 'running') = (lease_owner IS NOT NULL)),
    CHECK ((status IN ('running', 'input_required')) = (ended_at IS NULL))
);
-- At most one running turn of a session, also when two are started at once.
CREATE UNIQUE INDEX turns_one_running ON agentapi.turns (session_id) WHERE status = 'running';
CREATE INDEX turns_session ON agentapi.turns (session_id, created_at, id);
CREATE INDEX turns_user ON agentapi.turns (user_id, org_id, created_at, id);
CREATE INDEX turns_fingerprint ON agentapi.turns (user_id, org_id, fingerprint, created_at);
CREATE INDEX turns_organization ON agentapi.turns (org_id, created_at);
CREATE INDEX turns_agent ON agentapi.turns (agent_name, created_at);

-- Turns by the key that their client gave them, so that a repeated request finds the first one.
CREATE TABLE agentapi.idempotency_keys (
    user_id uuid NOT NULL,
    org_id uuid NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    turn_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, org_id, key)
);

-- The user and organisation of a program that runs for one person only. One row.
CREATE TABLE agentapi.local_identity (
    the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    org_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE
);

-- The configuration files whose agents were written to public.agents, and their last content.
CREATE TABLE agentapi.catalogue_files (
    source text PRIMARY KEY,
    sha256 text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);

-- The account of an issuer's subject. A subject is unique within its issuer only, so the key is the pair. A service
-- (`[[issuers.services]]`) has an identity of its own, which leads to no person's account.
CREATE TABLE agentapi.identities (
    issuer text NOT NULL CHECK (issuer <> ''),
    subject text NOT NULL CHECK (subject <> ''),
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    email text,
    created_at timestamptz NOT NULL DEFAULT now(),
    is_service boolean NOT NULL DEFAULT false,
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX agentapi_identities_user ON agentapi.identities (user_id);

-- Invitations: the first sign-in with this verified e-mail makes its owner a member.
CREATE TABLE agentapi.invitations (
    org_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE,
    email text NOT NULL CHECK (email <> '' AND email = lower(email)),
    role text NOT NULL CHECK (role IN ('viewer', 'member', 'admin', 'owner')),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, email)
);
CREATE INDEX agentapi_invitations_email ON agentapi.invitations (email);

-- Personal access tokens. Only the SHA-256 of a token is stored: it has 256 random bits, so neither a salt nor a slow
-- hash would add anything, and equal tokens have equal hashes, so one index look-up finds it.
CREATE TABLE agentapi.personal_tokens (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    org_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE,
    name text NOT NULL CHECK (name <> ''),
    token_hash bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    last_four text NOT NULL CHECK (length(last_four) = 4),
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    last_used_at timestamptz,
    revoked_at timestamptz
);
CREATE UNIQUE INDEX agentapi_personal_tokens_name ON agentapi.personal_tokens (user_id, org_id, name)
    WHERE revoked_at IS NULL;
CREATE INDEX agentapi_personal_tokens_user ON agentapi.personal_tokens (user_id);
CREATE INDEX agentapi_personal_tokens_org ON agentapi.personal_tokens (org_id);

-- API keys of providers: of a user in an organisation, or without a user of the organisation itself. Only the program
-- can unseal one, for this row and this owner; `key_id` names the master key that it needs.
CREATE TABLE agentapi.user_api_keys (
    id uuid PRIMARY KEY,
    user_id uuid REFERENCES public.profiles (id) ON DELETE CASCADE,
    org_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE,
    provider text NOT NULL CHECK (provider <> ''),
    model text CHECK (model <> ''),
    name text NOT NULL CHECK (name <> ''),
    sealed_key bytea NOT NULL,
    key_id text NOT NULL,
    last_four text CHECK (length(last_four) = 4),
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_used_at timestamptz,
    CONSTRAINT agentapi_user_api_keys_name UNIQUE NULLS NOT DISTINCT (org_id, user_id, name)
);
CREATE INDEX agentapi_user_api_keys_user ON agentapi.user_api_keys (user_id);

-- Links to the page on which a user enters a key: for one user, for one use, valid for minutes. Only the hash of the
-- link's token is stored.
CREATE TABLE agentapi.key_requests (
    token_sha256 bytea PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    org_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE,
    issuer text NOT NULL CHECK (issuer <> ''),
    provider text NOT NULL CHECK (provider <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX agentapi_key_requests_user ON agentapi.key_requests (user_id);
CREATE INDEX agentapi_key_requests_expires ON agentapi.key_requests (expires_at);

-- The audit log. No foreign keys, since an event outlives its user. The program cannot write `recorded_at`.
CREATE TABLE agentapi.audit_events (
    id uuid NOT NULL,
    at timestamptz NOT NULL,
    org_id uuid,
    user_id uuid,
    via text,
    client text,
    address text,
    request_id text,
    action text NOT NULL,
    target_kind text,
    target_id text,
    outcome text NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed')),
    details jsonb NOT NULL DEFAULT '{}',
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
CREATE INDEX audit_events_of_organization ON agentapi.audit_events (org_id, at DESC, id DESC);
CREATE INDEX audit_events_of_user ON agentapi.audit_events (user_id, at DESC);
-- Takes the events of a month that has no partition yet.
CREATE TABLE agentapi.audit_events_default PARTITION OF agentapi.audit_events DEFAULT;


-- 5. Functions.

-- The claims of the principal for whom the program runs a statement. Only the program names an organisation, so a
-- statement without one comes from an outside client. `may_*` repeat the decisions of core/identity/principals.py.
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
-- Reading is part of chatting and of editing.
CREATE FUNCTION agentapi.may_see() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT agentapi.may('sessions:read', '{viewer,member,admin,owner}', 'read') OR agentapi.may_chat()
           OR agentapi.may_edit() $$;
-- SECURITY DEFINER: members have no right to organization_members. It reads the current memberships, so a token of a
-- former member shows nothing.
CREATE FUNCTION agentapi.own_organization_ids() RETURNS uuid[] LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS
    $$ SELECT coalesce(array_agg(m.organization_id), '{}')
         FROM public.organization_members m
        WHERE m.user_id = auth.uid()
          AND m.organization_id = coalesce(agentapi.bound_organization(), m.organization_id) $$;

-- Totals of the bound organisation for its administrators. SECURITY DEFINER: it reads every member's rows, and returns
-- none of them.
CREATE FUNCTION agentapi.organization_numbers(OUT members bigint, OUT sessions bigint, OUT messages bigint,
    OUT turns jsonb, OUT input_tokens bigint, OUT output_tokens bigint, OUT cost_usd numeric)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH org AS (
        SELECT o AS id FROM unnest(agentapi.own_organization_ids()) AS o
         WHERE o = agentapi.bound_organization() AND agentapi.may('organization:read', '{admin,owner}', 'admin')
    ), recent AS (
        SELECT t.status, t.input_tokens, t.output_tokens, t.cost_usd FROM agentapi.turns t JOIN org ON org.id = t.org_id
         WHERE t.created_at > now() - interval '30 days'
    )
    SELECT (SELECT count(*) FROM public.organization_members m JOIN org ON org.id = m.organization_id),
           (SELECT count(*) FROM public.chat_sessions s JOIN org ON org.id = s.org_id),
           (SELECT count(*) FROM public.chat_sessions s JOIN org ON org.id = s.org_id
              JOIN public.chat_messages c ON c.session_id = s.id),
           (SELECT coalesce(jsonb_object_agg(status, n), '{}')
              FROM (SELECT status, count(*) AS n FROM recent GROUP BY status) AS by_status),
           (SELECT coalesce(sum(input_tokens), 0) FROM recent), (SELECT coalesce(sum(output_tokens), 0) FROM recent),
           (SELECT sum(cost_usd) FROM recent)
      FROM org
$$;

-- Creates the partitions of a moment's month and of the next, where they are missing, and moves their events out of the
-- default partition. SECURITY DEFINER: the program owns no table.
CREATE FUNCTION agentapi.keep_audit_partitions(moment timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS
$function$
DECLARE
    begins timestamptz;
    ends timestamptz;
    part text;
BEGIN
    IF moment NOT BETWEEN now() - interval '2 years' AND now() + interval '2 years' THEN
        RAISE EXCEPTION 'partitions are made within two years of now alone';
    END IF;
    FOR n IN 0..1 LOOP
        begins := (date_trunc('month', moment AT TIME ZONE 'UTC') + make_interval(months => n)) AT TIME ZONE 'UTC';
        ends := (date_trunc('month', moment AT TIME ZONE 'UTC') + make_interval(months => n + 1)) AT TIME ZONE 'UTC';
        part := 'audit_events_' || to_char(begins AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass('agentapi.' || part) IS NOT NULL;
        LOCK TABLE agentapi.audit_events_default IN ACCESS EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass('agentapi.' || part) IS NOT NULL;
        EXECUTE format('CREATE TABLE agentapi.%I (LIKE agentapi.audit_events INCLUDING ALL)', part);
        EXECUTE format('REVOKE ALL ON agentapi.%I FROM PUBLIC, anon, authenticated, service_role, agentapi_system', part);
        EXECUTE format('ALTER TABLE agentapi.%I ENABLE ROW LEVEL SECURITY', part);
        EXECUTE format(
            'WITH moved AS (DELETE FROM agentapi.audit_events_default WHERE at >= %L AND at < %L RETURNING *) '
            'INSERT INTO agentapi.%I SELECT * FROM moved', begins, ends, part);
        EXECUTE format(
            'ALTER TABLE agentapi.audit_events ATTACH PARTITION agentapi.%I FOR VALUES FROM (%L) TO (%L)',
            part, begins, ends);
    END LOOP;
END
$function$;

-- Drops the partitions of months that ended before a moment and returns them. With the rights of its caller, so only
-- the owner can use it.
CREATE FUNCTION agentapi.prune_audit_events(moment timestamptz) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s' AS
$function$
DECLARE
    part text;
BEGIN
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'agentapi.audit_events'::regclass AND c.relname ~ '^audit_events_\d{4}_\d{2}$'
           AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' <= moment
         ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE agentapi.%I', part);
        RETURN NEXT right(part, 7);
    END LOOP;
    DELETE FROM agentapi.audit_events_default WHERE at < moment;
END
$function$;

REVOKE ALL ON FUNCTION agentapi.bound_organization(), agentapi.bound_session(), agentapi.may(text, text[], text),
    agentapi.may_chat(), agentapi.may_edit(), agentapi.may_see(), agentapi.own_organization_ids(),
    agentapi.organization_numbers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION agentapi.bound_organization(), agentapi.bound_session(), agentapi.may(text, text[], text),
    agentapi.may_chat(), agentapi.may_edit(), agentapi.may_see(), agentapi.own_organization_ids()
    TO authenticated, agentapi_writer;
GRANT EXECUTE ON FUNCTION agentapi.organization_numbers() TO agentapi_writer;
REVOKE ALL ON FUNCTION agentapi.keep_audit_partitions(timestamptz), agentapi.prune_audit_events(timestamptz)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.keep_audit_partitions(timestamptz) TO agentapi_system;


-- 6. Views.

-- Names only: the reader of a session may know which agent and model answered, and needs no right to `config` for that.
CREATE VIEW agentapi.agent_names AS SELECT id, name FROM public.agents;
CREATE VIEW agentapi.model_names AS SELECT id, name FROM public.models;

-- Those settings of a member's organisations that apply to the member's own chats. A view, so that one statement reads
-- them together with the session, without agentapi_system.
CREATE VIEW agentapi.own_organizations WITH (security_barrier = true) AS
SELECT o.id, jsonb_strip_nulls(jsonb_build_object(
           'default_agent', o.settings -> 'default_agent',
           'default_model', o.settings -> 'default_model',
           'temperature', o.settings -> 'temperature',
           'max_tokens', o.settings -> 'max_tokens',
           'system_prompt', o.settings -> 'system_prompt',
           'allowed_agents', o.settings -> 'allowed_agents',
           'allowed_models', o.settings -> 'allowed_models')) AS settings
  FROM public.organizations o
 WHERE EXISTS (SELECT FROM public.organization_members m
                WHERE m.organization_id = o.id AND m.user_id = (SELECT auth.uid()));

-- The number of messages of each session. A policy would be evaluated for each message, this for each session.
CREATE VIEW agentapi.own_message_counts WITH (security_barrier = true) AS
SELECT s.id AS session_id, (SELECT count(*) FROM public.chat_messages c WHERE c.session_id = s.id) AS messages
  FROM public.chat_sessions s
 WHERE s.user_id = (SELECT auth.uid()) AND s.org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
   AND ((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see()));

-- The views of public show each reader his own rows.
DO $$
BEGIN
    IF to_regclass('public.v_recent_sessions') IS NOT NULL THEN
        ALTER VIEW public.v_recent_sessions SET (security_invoker = true);
    ELSE
        CREATE VIEW public.v_recent_sessions WITH (security_invoker = true) AS
            SELECT s.id, s.user_id, s.org_id, s.title, s.last_message_at, s.created_at, m.name AS model_name,
                   m.provider, a.name AS agent_name, a.type AS agent_type,
                   (SELECT count(*) FROM public.chat_messages c WHERE c.session_id = s.id) AS message_count
              FROM public.chat_sessions s
              LEFT JOIN public.models m ON m.id = s.model_id
              LEFT JOIN public.agents a ON a.id = s.agent_id
             ORDER BY s.last_message_at DESC NULLS LAST;
    END IF;
    IF to_regclass('public.v_agent_status') IS NOT NULL THEN
        ALTER VIEW public.v_agent_status SET (security_invoker = true);
    ELSE
        CREATE VIEW public.v_agent_status WITH (security_invoker = true) AS
            SELECT a.id, a.name, a.type, a.enabled, h.status AS health_status, h.last_check, h.consecutive_failures,
                   (SELECT count(*) FROM public.models m WHERE m.agent_id = a.id AND m.enabled) AS model_count
              FROM public.agents a
              LEFT JOIN public.agent_health h ON h.agent_id = a.id;
    END IF;
END
$$;


-- 7. Privileges and policies of agentapi_system: all rows. Revoked first is what default privileges granted.
REVOKE ALL ON SCHEMA agentapi FROM anon, authenticated;
REVOKE ALL ON ALL TABLES IN SCHEMA agentapi FROM anon, authenticated;
DO $$
DECLARE
    t text;
    -- The four older tables, where they were there before: they keep row-level security as it was, on or off.
    existing CONSTANT text[] := ARRAY(
        SELECT 'public.' || w FROM unnest(ARRAY['profiles', 'organizations', 'organization_members', 'mcp_sessions']) AS w
         WHERE NOT EXISTS (SELECT FROM agentapi.facts f WHERE f.name = w AND f.value = 'ours'));
BEGIN
    FOR t IN SELECT name FROM agentapi.facts WHERE value = 'ours' ORDER BY name LOOP
        EXECUTE format('REVOKE ALL ON public.%I FROM anon, authenticated', t);
    END LOOP;
    -- Must come before row-level security is switched on and before privileges are revoked. It adds no row to what
    -- `authenticated` can see of `config` and `last_error`; the program itself reads names through agentapi.*_names.
    FOREACH t IN ARRAY ARRAY['agents', 'models', 'agent_health'] LOOP
        IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass('public.' || t))
           OR NOT has_column_privilege('authenticated', 'public.' || t,
                                       CASE t WHEN 'agent_health' THEN 'last_error' ELSE 'config' END, 'SELECT') THEN
            EXECUTE format('CREATE POLICY agentapi_read ON public.%I FOR SELECT TO authenticated USING (true)', t);
        END IF;
    END LOOP;
    FOREACH t IN ARRAY ARRAY['public.profiles', 'public.organizations', 'public.organization_members',
            'public.mcp_sessions', 'public.agents', 'public.models', 'public.chat_sessions', 'public.chat_messages',
            'public.agent_health', 'agentapi.turns', 'agentapi.idempotency_keys', 'agentapi.local_identity',
            'agentapi.catalogue_files', 'agentapi.identities', 'agentapi.invitations'] LOOP
        EXECUTE format('CREATE POLICY agentapi_system ON %s TO agentapi_system USING (true) WITH CHECK (true)', t);
        IF NOT t = ANY (existing) THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO agentapi_system', t);
        END IF;
    END LOOP;
    FOREACH t IN ARRAY ARRAY['agentapi.migrations', 'agentapi.facts'] LOOP
        EXECUTE format('CREATE POLICY agentapi_system ON %s FOR SELECT TO agentapi_system USING (true)', t);
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('GRANT SELECT ON %s TO agentapi_system', t);
    END LOOP;
    -- Of those that were there before, the columns that the program uses.
    IF 'public.profiles' = ANY (existing) THEN
        GRANT SELECT (id) ON public.profiles TO agentapi_system;
    END IF;
    IF 'public.organizations' = ANY (existing) THEN
        GRANT SELECT (id, settings) ON public.organizations TO agentapi_system;
    END IF;
    IF 'public.organization_members' = ANY (existing) THEN
        GRANT SELECT (organization_id, user_id, role) ON public.organization_members TO agentapi_system;
    END IF;
    IF 'public.mcp_sessions' = ANY (existing) THEN
        GRANT SELECT (user_id, session_id), INSERT (user_id, session_id, mcp_state, oauth_data, expires_at),
            UPDATE (mcp_state, expires_at, updated_at) ON public.mcp_sessions TO agentapi_system;
    END IF;
END
$$;
-- The same, for tables of our own too, to which agentapi_system has every right already.
GRANT SELECT (email, workos_id, current_organization_id) ON public.profiles TO agentapi_system;
GRANT SELECT (permissions) ON public.organization_members TO agentapi_system;
GRANT SELECT (mcp_state, expires_at), DELETE ON public.mcp_sessions TO agentapi_system;

-- Tables of which the program changes some columns only.
GRANT USAGE ON SCHEMA agentapi TO agentapi_system;
CREATE POLICY agentapi_system ON agentapi.personal_tokens TO agentapi_system USING (true) WITH CHECK (true);
ALTER TABLE agentapi.personal_tokens ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE (last_used_at, revoked_at) ON agentapi.personal_tokens TO agentapi_system;
CREATE POLICY agentapi_system ON agentapi.user_api_keys TO agentapi_system USING (true) WITH CHECK (true);
ALTER TABLE agentapi.user_api_keys ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, DELETE, UPDATE (sealed_key, key_id, active, last_used_at) ON agentapi.user_api_keys
    TO agentapi_system;
CREATE POLICY agentapi_system ON agentapi.key_requests TO agentapi_system USING (true) WITH CHECK (true);
ALTER TABLE agentapi.key_requests ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, DELETE, UPDATE (used_at) ON agentapi.key_requests TO agentapi_system;


-- 8. Privileges and policies of authenticated, which anybody with a token of the project can be without the program. It
--    reads, and writes nothing but its own chat_sessions. Outside clients (no bound organisation) see their own rows of
--    organisations of which they are members now; the restrictive `agentapi_bound` limits the program's own reads, whatever
--    other policies permit.
GRANT USAGE ON SCHEMA agentapi TO authenticated;
REVOKE ALL ON public.agents, public.models, public.chat_sessions, public.chat_messages, public.agent_health,
    public.v_recent_sessions, public.v_agent_status FROM anon;
REVOKE ALL ON public.chat_messages FROM authenticated;
REVOKE SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON public.agents, public.models, public.agent_health, public.mcp_sessions
    FROM anon, authenticated;

-- Columns, not tables: `config`, `last_error` and `oauth_data` may hold what their writer should not have put there. A
-- backend's own handle of a turn (`backend_state`), and what makes a turn unique, are not for clients.
GRANT SELECT (id, name, type, description, enabled, created_at, updated_at) ON public.agents TO authenticated;
GRANT SELECT (id, agent_id, name, display_name, description, provider, model_id, enabled, created_at, updated_at)
    ON public.models TO authenticated;
GRANT SELECT (id, agent_id, status, last_check, consecutive_failures) ON public.agent_health TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.chat_sessions TO authenticated;
GRANT SELECT (id, session_id, role, content, tokens_in, tokens_out, tokens_total, metadata, created_at)
    ON public.chat_messages TO authenticated;
GRANT SELECT (id, session_id, user_id, org_id, user_message_id, assistant_message_id, agent_id, agent_name, backend,
    model_row_id, model_name, status, partial_text, lease_until, cancel_requested_at, delivered_at, end_reason, stop_reason,
    error, warning, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd, cost_source, billing_may_go_on,
    latency_ms, time_to_first_token_ms, model_used, provider, route, history_dropped, created_at, ended_at)
    ON agentapi.turns TO authenticated;
GRANT SELECT ON agentapi.agent_names, agentapi.model_names, agentapi.own_organizations, agentapi.own_message_counts
    TO authenticated;

DO $$
BEGIN
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'profiles' AND value = 'ours') THEN
        CREATE POLICY agentapi_own ON public.profiles FOR SELECT TO authenticated USING (id = (SELECT auth.uid()));
        GRANT SELECT (id) ON public.profiles TO authenticated;
    END IF;
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'mcp_sessions' AND value = 'ours') THEN
        CREATE POLICY agentapi_own ON public.mcp_sessions FOR SELECT TO authenticated
            USING (user_id = (SELECT auth.uid()));
    END IF;
    -- Without row-level security a right to read shows everybody's rows, and switching it on is the decision of those who
    -- use the table.
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = 'public.mcp_sessions'::regclass) THEN
        GRANT SELECT (user_id, session_id, mcp_state, created_at, expires_at, updated_at)
            ON public.mcp_sessions TO authenticated;
        CREATE POLICY agentapi_bound ON public.mcp_sessions AS RESTRICTIVE TO anon, authenticated
            USING (user_id = (SELECT auth.uid()));
    END IF;
END
$$;

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
-- OFFSET 0 keeps the planner from hashing the subquery, which would read all sessions of all users for one page of
-- messages. There is no policy to change or delete a message.
CREATE POLICY agentapi_own ON public.chat_messages FOR SELECT TO authenticated USING (
    (SELECT agentapi.bound_organization()) IS NOT NULL OR
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));
-- A statement of the program that reads one session names it (bound_session), and the session is looked up once rather
-- than for each message.
CREATE POLICY agentapi_bound ON public.chat_messages AS RESTRICTIVE FOR SELECT TO authenticated USING (
    (SELECT agentapi.bound_organization()) IS NULL OR
    session_id = (SELECT s.id FROM public.chat_sessions s
                   WHERE s.id = (SELECT agentapi.bound_session()) AND s.user_id = (SELECT auth.uid())) OR
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));
-- A pair, which no index serves: the program's statements name a turn or a session, and for a user with many turns the
-- planner would otherwise read all of them.
CREATE POLICY agentapi_own ON agentapi.turns FOR SELECT TO authenticated
    USING ((user_id, org_id) IN (SELECT auth.uid(), o FROM unnest(agentapi.own_organization_ids()) AS o)
           AND ((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see())));


-- 9. Privileges and policies of agentapi_writer: rows of the user and organisation in the claims, and what role and
--    scopes allow. A turn begins only where its user is a member now; one that has begun is also finished. The
--    restrictive `agentapi_writer_bound` holds whatever an existing database permits by policies for PUBLIC.
GRANT USAGE ON SCHEMA agentapi TO agentapi_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.chat_sessions TO agentapi_writer;
GRANT SELECT, INSERT ON public.chat_messages TO agentapi_writer;
GRANT SELECT, INSERT, UPDATE ON agentapi.turns, agentapi.idempotency_keys TO agentapi_writer;
GRANT SELECT (id, name, settings), UPDATE (settings) ON public.organizations TO agentapi_writer;
GRANT SELECT ON agentapi.agent_names, agentapi.model_names, agentapi.own_organizations, agentapi.own_message_counts
    TO agentapi_writer;

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
CREATE POLICY agentapi_writer_bound ON public.chat_sessions AS RESTRICTIVE TO agentapi_writer
    USING (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization()));

-- The session of each message is looked up once, by the restrictive policy.
CREATE POLICY agentapi_writer_read ON public.chat_messages FOR SELECT TO agentapi_writer USING (true);
CREATE POLICY agentapi_writer_say ON public.chat_messages FOR INSERT TO agentapi_writer
    WITH CHECK ((SELECT agentapi.may_chat()));
CREATE POLICY agentapi_writer_bound ON public.chat_messages AS RESTRICTIVE TO agentapi_writer USING (
    EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id AND s.user_id = (SELECT auth.uid()) OFFSET 0));

CREATE POLICY agentapi_writer_read ON agentapi.turns FOR SELECT TO agentapi_writer
    USING ((user_id, org_id) IN (SELECT auth.uid(), agentapi.bound_organization()));
CREATE POLICY agentapi_writer_new ON agentapi.turns FOR INSERT TO agentapi_writer
    WITH CHECK (user_id = (SELECT auth.uid()) AND org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
                AND org_id = (SELECT agentapi.bound_organization()) AND (SELECT agentapi.may_chat()));
CREATE POLICY agentapi_writer_change ON agentapi.turns FOR UPDATE TO agentapi_writer
    USING ((user_id, org_id) IN (SELECT auth.uid(), agentapi.bound_organization()) AND (SELECT agentapi.may_chat()));
CREATE POLICY agentapi_writer ON agentapi.idempotency_keys TO agentapi_writer
    USING (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization())
           AND (SELECT agentapi.may_chat()));

-- Settings of the organisation, for its administrators.
CREATE POLICY agentapi_writer ON public.organizations TO agentapi_writer
    USING (id = (SELECT agentapi.bound_organization()) AND id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
           AND (SELECT agentapi.may('organization:read', '{admin,owner}', 'admin')))
    WITH CHECK ((SELECT agentapi.may('organization:edit', '{admin,owner}', 'admin')));
CREATE POLICY agentapi_writer_bound ON public.organizations AS RESTRICTIVE TO agentapi_writer
    USING (id = (SELECT agentapi.bound_organization()) AND id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
           AND (SELECT agentapi.may('organization:read', '{admin,owner}', 'admin')))
    WITH CHECK ((SELECT agentapi.may('organization:edit', '{admin,owner}', 'admin')));


-- 10. Privileges and policies of the audit log: append-only. Only the owner changes or deletes an event, or reaches a
--     partition by its own name.
REVOKE ALL ON agentapi.audit_events, agentapi.audit_events_default
    FROM PUBLIC, anon, authenticated, service_role, agentapi_system;
ALTER TABLE agentapi.audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE agentapi.audit_events_default ENABLE ROW LEVEL SECURITY;
CREATE POLICY agentapi_read ON agentapi.audit_events FOR SELECT TO agentapi_system USING (true);
CREATE POLICY agentapi_append ON agentapi.audit_events FOR INSERT TO agentapi_system WITH CHECK (true);
GRANT SELECT ON agentapi.audit_events TO agentapi_system;
GRANT INSERT (id, at, org_id, user_id, via, client, address, request_id, action, target_kind, target_id, outcome, details)
    ON agentapi.audit_events TO agentapi_system;
SELECT agentapi.keep_audit_partitions(now());


-- 11. Columns that policies for PUBLIC read. Such policies of an existing database are evaluated with the rights of
--     agentapi_writer, so it gets the right to read those columns, row by row as the policies of their tables say. A
--     column that this login cannot grant is named.
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


-- 12. Checks of what was granted: privileges that come from a grant to PUBLIC, or from another grantor, were not revoked
--     above.
DO $$
DECLARE
    faults text[] := ARRAY(
        SELECT format('anon may use %s', r.oid::regclass)
          FROM pg_class r
         WHERE (r.relnamespace = to_regnamespace('agentapi') AND r.relkind IN ('r', 'p', 'v')
                OR r.relnamespace = to_regnamespace('public') AND r.relname = ANY (ARRAY['agents', 'models',
                   'chat_sessions', 'chat_messages', 'agent_health', 'v_recent_sessions', 'v_agent_status']))
           AND (has_table_privilege('anon', r.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                OR has_any_column_privilege('anon', r.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
         ORDER BY r.relname);
BEGIN
    faults := faults || ARRAY(
        SELECT format('%s may write %s', r.rolname, t.oid::regclass)
          FROM pg_class t, pg_roles r
         WHERE r.rolname IN ('anon', 'authenticated')
           AND t.oid = ANY (ARRAY['public.chat_messages', 'public.agents', 'public.models', 'public.agent_health',
                                  'public.mcp_sessions', 'agentapi.turns', 'agentapi.idempotency_keys']::regclass[])
           AND (has_table_privilege(r.oid, t.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
                OR has_any_column_privilege(r.oid, t.oid, 'INSERT, UPDATE'))
         ORDER BY r.rolname, t.relname);
    faults := faults || ARRAY(
        SELECT format('%s may read %s of %s', r.role, w.col, w.rel)
          FROM (VALUES ('anon'), ('authenticated')) AS r (role),
               (VALUES ('public.agents', 'config'), ('public.models', 'config'), ('public.agent_health', 'last_error'),
                       ('public.mcp_sessions', 'oauth_data'), ('public.mcp_sessions', 'mcp_state')) AS w (rel, col)
         WHERE has_column_privilege(r.role, w.rel, w.col, 'SELECT')
           AND NOT (r.role = 'authenticated' AND w.col = 'mcp_state')
         ORDER BY r.role, w.rel);
    IF cardinality(faults) > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            '%s, by a grant to PUBLIC or by another role than %s: revoke that', array_to_string(faults, ', '),
            current_user);
    END IF;
END
$$;
