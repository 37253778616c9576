-- needs: 0.1.0
-- Whom a page may let enter a key: made for one user, used once, for minutes. Only a hash of what the link holds is kept.
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

REVOKE ALL ON agentapi.key_requests FROM anon, authenticated;
ALTER TABLE agentapi.key_requests ENABLE ROW LEVEL SECURITY;
CREATE POLICY agentapi_system ON agentapi.key_requests TO agentapi_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, DELETE, UPDATE (used_at) ON agentapi.key_requests TO agentapi_system;
