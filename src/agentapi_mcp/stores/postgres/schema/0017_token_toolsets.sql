-- needs: 0.1.0
-- The toolsets that clients with a personal token see; NULL means those of the server. They give no right.
ALTER TABLE agentapi.personal_tokens ADD COLUMN toolsets text[];
