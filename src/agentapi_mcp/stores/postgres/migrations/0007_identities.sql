-- needs: 0.1.0
-- Signing in reads these of the tables that may have been there before.
DO $$
DECLARE
    faults text[] := ARRAY(
        SELECT format('public.%s.%s must be %s, it is %s', w.t, w.c, w.kind,
                      coalesce(format_type(a.atttypid, a.atttypmod), 'missing'))
          FROM (VALUES ('profiles', 'email', 'text'), ('profiles', 'workos_id', 'text'),
                       ('profiles', 'current_organization_id', 'uuid')) AS w (t, c, kind)
          LEFT JOIN pg_attribute a ON a.attrelid = to_regclass('public.' || w.t) AND a.attname = w.c
                                  AND a.attnum > 0 AND NOT a.attisdropped
         WHERE a.attname IS NULL
            OR NOT (a.atttypid = w.kind::regtype OR w.kind = 'text' AND a.atttypid = 'varchar'::regtype));
BEGIN
    IF cardinality(faults) > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The database does not fit, seen as the login %s: %s', current_user, array_to_string(faults, '; '));
    END IF;
END
$$;

-- Who an issuer's subject is here. A subject is a name in its issuer alone: no other issuer's leads to the same account.
CREATE TABLE agentapi.identities (
    issuer text NOT NULL CHECK (issuer <> ''),
    subject text NOT NULL CHECK (subject <> ''),
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    email text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX agentapi_identities_user ON agentapi.identities (user_id);

REVOKE ALL ON agentapi.identities FROM anon, authenticated;
ALTER TABLE agentapi.identities ENABLE ROW LEVEL SECURITY;
CREATE POLICY agentapi_system ON agentapi.identities TO agentapi_system USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON agentapi.identities TO agentapi_system;

GRANT SELECT (email, workos_id, current_organization_id) ON public.profiles TO agentapi_system;
