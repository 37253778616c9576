-- needs: 0.1.0
-- Who is expected in an organisation: the first sign-in with this verified e-mail makes its owner a member.
CREATE TABLE agentapi.invitations (
    org_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE,
    email text NOT NULL CHECK (email <> '' AND email = lower(email)),
    role text NOT NULL CHECK (role IN ('viewer', 'member', 'admin', 'owner')),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, email)
);
CREATE INDEX agentapi_invitations_email ON agentapi.invitations (email);

REVOKE ALL ON agentapi.invitations FROM anon, authenticated;
ALTER TABLE agentapi.invitations ENABLE ROW LEVEL SECURITY;
CREATE POLICY agentapi_system ON agentapi.invitations TO agentapi_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON agentapi.invitations TO agentapi_system;
