-- needs: 0.1.0
-- What Supabase brings and a plain Postgres lacks: the roles, and auth.uid(). Nothing that exists is changed.
DO $$
DECLARE
    wanted text;
    missing text[] := '{}';
    may_create boolean := (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user);
BEGIN
    IF current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'Postgres %s is too old: 15 or newer is needed', current_setting('server_version'));
    END IF;
    IF NOT has_database_privilege(current_database(), 'CREATE') THEN
        missing := missing || format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user);
    END IF;
    IF NOT has_schema_privilege('public', 'CREATE') THEN
        missing := missing || format('GRANT CREATE ON SCHEMA public TO %I', current_user);
    END IF;
    FOREACH wanted IN ARRAY ARRAY['anon', 'authenticated', 'service_role', 'agentapi_system'] LOOP
        IF NOT may_create AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            missing := missing || format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
    IF cardinality(missing) > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'the login %s lacks rights; as an administrator run: %s', current_user, array_to_string(missing, '; '));
    END IF;
    FOREACH wanted IN ARRAY ARRAY['anon', 'authenticated', 'service_role', 'agentapi_system'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', wanted);
        END IF;
    END LOOP;
    FOREACH wanted IN ARRAY ARRAY['authenticated', 'agentapi_system'] LOOP
        IF NOT pg_has_role(current_user, wanted, 'MEMBER') OR
            (current_setting('server_version_num')::int >= 160000 AND NOT pg_has_role(current_user, wanted, 'SET')) THEN
            EXECUTE format('GRANT %I TO %I', wanted, current_user);
        END IF;
    END LOOP;
    IF to_regprocedure('auth.uid()') IS NULL THEN
        CREATE SCHEMA IF NOT EXISTS auth;
        CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
            'SELECT nullif(nullif(current_setting(''request.jwt.claims'', true), '''')::jsonb ->> ''sub'', '''')::uuid';
        GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role, agentapi_system;
    END IF;
END
$$;

GRANT USAGE ON SCHEMA public TO authenticated, agentapi_system;
GRANT USAGE ON SCHEMA agentapi TO authenticated, agentapi_system;
GRANT SELECT ON agentapi.migrations TO agentapi_system;

-- What we found or made here, for the program to act on.
CREATE TABLE agentapi.facts (
    name text PRIMARY KEY,
    value text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON agentapi.facts TO agentapi_system;
