-- needs: 0.1.0
-- The servers that are up on this database, each with its version and a hash of its configuration.
CREATE TABLE agentapi.replicas (
    id uuid PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    version text NOT NULL,
    configuration text NOT NULL CHECK (configuration ~ '^[0-9a-f]{64}$')
);
ALTER TABLE agentapi.replicas ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON agentapi.replicas FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON agentapi.replicas TO agentapi_system;
CREATE POLICY agentapi_system ON agentapi.replicas TO agentapi_system USING (true) WITH CHECK (true);
