-- needs: 0.1.0
-- Periodic work: the last run of each job over all processes of this database, and what lets expired rows be found.
DO $$
BEGIN
    IF to_regclass('public.agentapi_mcp_sessions_expires') IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The database does not fit, seen as the login %s: there is something named '
            'public.agentapi_mcp_sessions_expires, a name that the program needs', current_user);
    END IF;
END
$$;

CREATE TABLE agentapi.jobs (
    name text PRIMARY KEY CHECK (name <> ''),
    owner uuid,
    last_started_at timestamptz NOT NULL,
    last_ended_at timestamptz,
    lease_until timestamptz,
    last_error text,
    consecutive_failures integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE agentapi.jobs ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON agentapi.jobs FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE ON agentapi.jobs TO agentapi_system;
CREATE POLICY agentapi_system ON agentapi.jobs TO agentapi_system USING (true) WITH CHECK (true);

-- Expired rows are deleted in batches, each of which would otherwise read the whole table. Rows of mcp_sessions without
-- a protocol belong to other programs. agentapi.key_requests has such an index already.
CREATE INDEX agentapi_idempotency_keys_expires ON agentapi.idempotency_keys (expires_at);
CREATE INDEX agentapi_invitations_expires ON agentapi.invitations (expires_at);
CREATE INDEX agentapi_mcp_sessions_expires ON public.mcp_sessions (expires_at) WHERE mcp_state ? 'protocol';
