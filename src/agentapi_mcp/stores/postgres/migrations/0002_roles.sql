-- needs: 0.1.0
-- What Supabase brings and a plain Postgres lacks: the roles, and auth.uid(). Nothing that exists is changed.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['anon', 'authenticated', 'service_role', 'agentapi_system'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', wanted);
        END IF;
    END LOOP;
    -- The login may be the program's own. Where it may not be, the program says so when it starts.
    FOREACH wanted IN ARRAY ARRAY['authenticated', 'agentapi_system'] LOOP
        IF NOT pg_has_role(current_user, wanted, 'MEMBER') OR
            (current_setting('server_version_num')::int >= 160000 AND NOT pg_has_role(current_user, wanted, 'SET')) THEN
            BEGIN
                EXECUTE format('GRANT %I TO %I', wanted, current_user);
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
    FOREACH wanted IN ARRAY ARRAY['authenticated', 'agentapi_system'] LOOP
        IF NOT has_schema_privilege(wanted, 'public', 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', wanted);
        END IF;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA agentapi TO agentapi_system;
GRANT SELECT ON agentapi.migrations TO agentapi_system;

-- What we made here, for the program and later migrations to act on.
CREATE TABLE agentapi.facts (
    name text PRIMARY KEY,
    value text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON agentapi.facts TO agentapi_system;
