-- needs: 0.1.0
-- What processes tell each other. Any login of a database may LISTEN and NOTIFY, so a notification only says that there
-- is something to read here, and no outside role can write a row. Unlogged, since a lost signal does no harm.
CREATE UNLOGGED TABLE agentapi.signals (
    sent_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint GENERATED ALWAYS AS IDENTITY,
    sender uuid NOT NULL,
    signal text NOT NULL CHECK (octet_length(signal) <= 4000),
    expires_at timestamptz NOT NULL DEFAULT now() + interval '1 minute',
    PRIMARY KEY (sent_in, id)
);
CREATE INDEX agentapi_signals_expires ON agentapi.signals (expires_at);
ALTER TABLE agentapi.signals ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON agentapi.signals FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON agentapi.signals TO agentapi_system;
CREATE POLICY agentapi_system ON agentapi.signals TO agentapi_system USING (true) WITH CHECK (true);

-- The channel has a name of 128 random bits, so that nobody else hears when something happens, or wakes the program.
REVOKE ALL ON agentapi.facts FROM PUBLIC, anon, authenticated, service_role;
INSERT INTO agentapi.facts (name, value)
SELECT 'signal_channel',
       'agentapi_' || left(encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid(), 'UTF8')), 'hex'), 32);
