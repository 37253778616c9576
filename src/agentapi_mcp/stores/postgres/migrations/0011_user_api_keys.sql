-- needs: 0.1.0
-- Keys of providers that people brought: of a user in an organisation, or with no user of the organisation itself. What is
-- sealed is opened by the program alone, for this row and this owner; `key_id` names the master key that it needs.
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

REVOKE ALL ON agentapi.user_api_keys FROM anon, authenticated;
ALTER TABLE agentapi.user_api_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY agentapi_system ON agentapi.user_api_keys TO agentapi_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, DELETE, UPDATE (sealed_key, key_id, active, last_used_at) ON agentapi.user_api_keys
    TO agentapi_system;
