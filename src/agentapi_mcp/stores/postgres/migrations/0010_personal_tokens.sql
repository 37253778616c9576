-- needs: 0.1.0
-- Tokens that people make for their programs. Of a token only its SHA-256 is kept: it has 256 random bits, which no
-- guessing finds however fast the hash is, so neither salt nor a slow hash would add anything; and an equal token has
-- an equal hash, so one look into an index finds it.
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

REVOKE ALL ON agentapi.personal_tokens FROM anon, authenticated;
ALTER TABLE agentapi.personal_tokens ENABLE ROW LEVEL SECURITY;
CREATE POLICY agentapi_system ON agentapi.personal_tokens TO agentapi_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE (last_used_at, revoked_at) ON agentapi.personal_tokens TO agentapi_system;

-- A program's own identity, which leads to no person's account (`[[issuers.services]]`).
ALTER TABLE agentapi.identities ADD COLUMN is_service boolean NOT NULL DEFAULT false;
