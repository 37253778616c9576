-- needs: 0.1.0
-- What happened: who, from where, what, on what, and how it ended. No foreign keys, since an event outlives its user.
-- `recorded_at` is the database's own word, which the program cannot write.
CREATE TABLE agentapi.audit_events (
    id uuid NOT NULL,
    at timestamptz NOT NULL,
    org_id uuid,
    user_id uuid,
    via text,
    client text,
    address text,
    request_id text,
    action text NOT NULL,
    target_kind text,
    target_id text,
    outcome text NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed')),
    details jsonb NOT NULL DEFAULT '{}',
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
CREATE INDEX audit_events_of_organization ON agentapi.audit_events (org_id, at DESC, id DESC);
CREATE INDEX audit_events_of_user ON agentapi.audit_events (user_id, at DESC);
-- For the events of a month that nobody has made a partition for.
CREATE TABLE agentapi.audit_events_default PARTITION OF agentapi.audit_events DEFAULT;

REVOKE ALL ON agentapi.audit_events, agentapi.audit_events_default
    FROM PUBLIC, anon, authenticated, service_role, agentapi_system;
ALTER TABLE agentapi.audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE agentapi.audit_events_default ENABLE ROW LEVEL SECURITY;
CREATE POLICY agentapi_read ON agentapi.audit_events FOR SELECT TO agentapi_system USING (true);
CREATE POLICY agentapi_append ON agentapi.audit_events FOR INSERT TO agentapi_system WITH CHECK (true);
-- Append-only: nobody but the owner changes or deletes an event, or comes to a partition by its own name.
GRANT SELECT ON agentapi.audit_events TO agentapi_system;
GRANT INSERT (id, at, org_id, user_id, via, client, address, request_id, action, target_kind, target_id, outcome, details)
    ON agentapi.audit_events TO agentapi_system;

-- Makes the partitions of a moment's month and of the next where they are missing, as the owner, for the program, which
-- may not. What waits in the default partition moves with them.
CREATE FUNCTION agentapi.keep_audit_partitions(moment timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS
$function$
DECLARE
    begins timestamptz;
    ends timestamptz;
    part text;
BEGIN
    IF moment NOT BETWEEN now() - interval '2 years' AND now() + interval '2 years' THEN
        RAISE EXCEPTION 'partitions are made within two years of now alone';
    END IF;
    FOR n IN 0..1 LOOP
        begins := (date_trunc('month', moment AT TIME ZONE 'UTC') + make_interval(months => n)) AT TIME ZONE 'UTC';
        ends := (date_trunc('month', moment AT TIME ZONE 'UTC') + make_interval(months => n + 1)) AT TIME ZONE 'UTC';
        part := 'audit_events_' || to_char(begins AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass('agentapi.' || part) IS NOT NULL;
        LOCK TABLE agentapi.audit_events_default IN ACCESS EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass('agentapi.' || part) IS NOT NULL;
        EXECUTE format('CREATE TABLE agentapi.%I (LIKE agentapi.audit_events INCLUDING ALL)', part);
        EXECUTE format('REVOKE ALL ON agentapi.%I FROM PUBLIC, anon, authenticated, service_role, agentapi_system', part);
        EXECUTE format('ALTER TABLE agentapi.%I ENABLE ROW LEVEL SECURITY', part);
        EXECUTE format(
            'WITH moved AS (DELETE FROM agentapi.audit_events_default WHERE at >= %L AND at < %L RETURNING *) '
            'INSERT INTO agentapi.%I SELECT * FROM moved', begins, ends, part);
        EXECUTE format(
            'ALTER TABLE agentapi.audit_events ATTACH PARTITION agentapi.%I FOR VALUES FROM (%L) TO (%L)',
            part, begins, ends);
    END LOOP;
END
$function$;
REVOKE ALL ON FUNCTION agentapi.keep_audit_partitions(timestamptz) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.keep_audit_partitions(timestamptz) TO agentapi_system;
SELECT agentapi.keep_audit_partitions(now());

-- Drops the months that were over before a moment, and tells which; it has the rights of its caller, who must be the owner.
CREATE FUNCTION agentapi.prune_audit_events(moment timestamptz) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s' AS
$function$
DECLARE
    part text;
BEGIN
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'agentapi.audit_events'::regclass AND c.relname ~ '^audit_events_\d{4}_\d{2}$'
           AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' <= moment
         ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE agentapi.%I', part);
        RETURN NEXT right(part, 7);
    END LOOP;
    DELETE FROM agentapi.audit_events_default WHERE at < moment;
END
$function$;
REVOKE ALL ON FUNCTION agentapi.prune_audit_events(timestamptz) FROM PUBLIC, anon, authenticated, service_role;
