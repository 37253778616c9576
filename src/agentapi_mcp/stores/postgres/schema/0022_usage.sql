-- needs: 0.1.0
-- What usage is read by: who the persons are for an administrator, and the numbers of an organisation from the ledger.

-- Who the persons of the bound organisation's ledger are, for its administrators; one whose row is gone is nobody any
-- more. E-mail addresses are those of members alone. SECURITY DEFINER: nobody may look up a person.
CREATE FUNCTION agentapi.people_of_usage_1(p_persons uuid[]) RETURNS TABLE (person uuid, user_id uuid, email text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.person, p.user_id, CASE WHEN m.user_id IS NOT NULL THEN f.email::text END
      FROM agentapi.people p
      JOIN public.profiles f ON f.id = p.user_id
      LEFT JOIN public.organization_members m
             ON m.user_id = p.user_id AND m.organization_id = agentapi.bound_organization()
     WHERE p.person = ANY (p_persons)
       AND agentapi.bound_organization() = ANY (agentapi.accounted_organization_ids())
       AND EXISTS (SELECT FROM agentapi.usage_daily u
                    WHERE u.person = p.person AND u.org_id = agentapi.bound_organization())
$$;
REVOKE ALL ON FUNCTION agentapi.people_of_usage_1(uuid[]) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.people_of_usage_1(uuid[]), agentapi.latency_bucket(bigint) TO authenticated;

-- A histogram as one number, so that the sums of millions of them cost what a sum costs: twelve digits for each bucket,
-- those of the first bucket last.
CREATE FUNCTION agentapi.latencies_of(histogram integer[]) RETURNS numeric
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(sum((b.turns || repeat('0', 12 * (b.bucket - 1)::integer))::numeric), 0)
      FROM unnest(histogram) WITH ORDINALITY AS b (turns, bucket) WHERE b.turns <> 0
$$;
REVOKE ALL ON FUNCTION agentapi.latencies_of(integer[]) FROM PUBLIC, anon, authenticated, service_role;
-- What users report has no bound together.
ALTER TABLE agentapi.usage_daily
    ALTER COLUMN reported_nanos TYPE numeric,
    ADD COLUMN latencies numeric NOT NULL GENERATED ALWAYS AS (agentapi.latencies_of(latency)) STORED;


-- The same sums for administrators: of their whole organisation, and of each person in it whatever the agent, so that
-- those of a year need not be added up from those of everybody.
-- Each may be in several rows, as many as turns have ended at the same moment: whoever adds to it takes a row that nobody
-- has locked, or else a new one. So no turn waits here for another, in whatever order a transaction ends several.
CREATE TABLE agentapi.usage_daily_of_organizations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id uuid NOT NULL,
    day date NOT NULL,
    agent text NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    interaction_type text NOT NULL,
    turns bigint NOT NULL,
    errors bigint NOT NULL,
    unpriced bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    latency_ms bigint NOT NULL,
    latencies numeric NOT NULL,
    reported bigint NOT NULL,
    reported_input_tokens bigint NOT NULL,
    reported_output_tokens bigint NOT NULL,
    reported_nanos numeric NOT NULL,
    last_at timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX usage_daily_of_organizations_key ON agentapi.usage_daily_of_organizations
    (org_id, day, agent, model, provider, interaction_type);
CREATE TABLE agentapi.usage_daily_of_persons (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id uuid NOT NULL,
    day date NOT NULL,
    person uuid NOT NULL,
    turns bigint NOT NULL,
    errors bigint NOT NULL,
    unpriced bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    latency_ms bigint NOT NULL,
    latencies numeric NOT NULL,
    reported bigint NOT NULL,
    reported_input_tokens bigint NOT NULL,
    reported_output_tokens bigint NOT NULL,
    reported_nanos numeric NOT NULL,
    last_at timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX usage_daily_of_persons_key ON agentapi.usage_daily_of_persons (org_id, day, person);
-- When each person used each agent last: which were used since a day is read here, and not from a year of days.
CREATE TABLE agentapi.usage_agents_of_persons (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id uuid NOT NULL,
    person uuid NOT NULL,
    agent text NOT NULL,
    last_day date NOT NULL
);
CREATE INDEX usage_agents_of_persons_key ON agentapi.usage_agents_of_persons (org_id, person, agent) INCLUDE (last_day);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['agentapi.usage_daily_of_organizations', 'agentapi.usage_daily_of_persons',
                             'agentapi.usage_agents_of_persons'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, anon, authenticated, service_role, agentapi_system', t);
        EXECUTE format('GRANT SELECT ON %s TO authenticated, agentapi_system', t);
        EXECUTE format('CREATE POLICY agentapi_system ON %s FOR SELECT TO agentapi_system USING (true)', t);
        EXECUTE format($policy$
            CREATE POLICY agentapi_accounted ON %s FOR SELECT TO authenticated
                USING (org_id = ANY ((SELECT agentapi.accounted_organization_ids())::uuid[]))
        $policy$, t);
    END LOOP;
END
$$;

-- Adds to all three what is added to the sums of a day, whoever adds it.
CREATE FUNCTION agentapi.roll_up() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v agentapi.usage_daily := NEW;
    v_id uuid;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        v.turns := NEW.turns - OLD.turns;
        v.errors := NEW.errors - OLD.errors;
        v.unpriced := NEW.unpriced - OLD.unpriced;
        v.input_tokens := NEW.input_tokens - OLD.input_tokens;
        v.output_tokens := NEW.output_tokens - OLD.output_tokens;
        v.cached_tokens := NEW.cached_tokens - OLD.cached_tokens;
        v.reasoning_tokens := NEW.reasoning_tokens - OLD.reasoning_tokens;
        v.cost_nanos := NEW.cost_nanos - OLD.cost_nanos;
        v.latency_ms := NEW.latency_ms - OLD.latency_ms;
        v.latencies := NEW.latencies - OLD.latencies;
        v.reported := NEW.reported - OLD.reported;
        v.reported_input_tokens := NEW.reported_input_tokens - OLD.reported_input_tokens;
        v.reported_output_tokens := NEW.reported_output_tokens - OLD.reported_output_tokens;
        v.reported_nanos := NEW.reported_nanos - OLD.reported_nanos;
    END IF;
    SELECT o.id INTO v_id FROM agentapi.usage_daily_of_organizations o
     WHERE o.org_id = v.org_id AND o.day = v.day AND o.agent = v.agent AND o.model = v.model AND o.provider = v.provider
       AND o.interaction_type = v.interaction_type
     LIMIT 1 FOR UPDATE SKIP LOCKED;
    INSERT INTO agentapi.usage_daily_of_organizations AS o (id, org_id, day, agent, model, provider,
        interaction_type, turns, errors, unpriced, input_tokens, output_tokens,
        cached_tokens, reasoning_tokens, cost_nanos, latency_ms, latencies, reported, reported_input_tokens,
        reported_output_tokens, reported_nanos, last_at)
    VALUES (coalesce(v_id, gen_random_uuid()), v.org_id, v.day, v.agent, v.model, v.provider,
        v.interaction_type, v.turns, v.errors, v.unpriced,
        v.input_tokens, v.output_tokens, v.cached_tokens, v.reasoning_tokens, v.cost_nanos, v.latency_ms, v.latencies,
        v.reported, v.reported_input_tokens, v.reported_output_tokens, v.reported_nanos, v.last_at)
    ON CONFLICT (id) DO UPDATE
       SET turns = o.turns + excluded.turns, errors = o.errors + excluded.errors,
           unpriced = o.unpriced + excluded.unpriced, input_tokens = o.input_tokens + excluded.input_tokens,
           output_tokens = o.output_tokens + excluded.output_tokens,
           cached_tokens = o.cached_tokens + excluded.cached_tokens,
           reasoning_tokens = o.reasoning_tokens + excluded.reasoning_tokens,
           cost_nanos = o.cost_nanos + excluded.cost_nanos, latency_ms = o.latency_ms + excluded.latency_ms,
           latencies = o.latencies + excluded.latencies, reported = o.reported + excluded.reported,
           reported_input_tokens = o.reported_input_tokens + excluded.reported_input_tokens,
           reported_output_tokens = o.reported_output_tokens + excluded.reported_output_tokens,
           reported_nanos = o.reported_nanos + excluded.reported_nanos, last_at = greatest(o.last_at, excluded.last_at);
    SELECT o.id INTO v_id FROM agentapi.usage_daily_of_persons o
     WHERE o.org_id = v.org_id AND o.day = v.day AND o.person = v.person
     LIMIT 1 FOR UPDATE SKIP LOCKED;
    INSERT INTO agentapi.usage_daily_of_persons AS o (id, org_id, day, person, turns, errors, unpriced,
        input_tokens, output_tokens, cached_tokens, reasoning_tokens,
        cost_nanos, latency_ms, latencies, reported, reported_input_tokens, reported_output_tokens, reported_nanos,
        last_at)
    VALUES (coalesce(v_id, gen_random_uuid()), v.org_id, v.day, v.person, v.turns, v.errors, v.unpriced,
        v.input_tokens, v.output_tokens, v.cached_tokens,
        v.reasoning_tokens, v.cost_nanos, v.latency_ms, v.latencies, v.reported, v.reported_input_tokens,
        v.reported_output_tokens, v.reported_nanos, v.last_at)
    ON CONFLICT (id) DO UPDATE
       SET turns = o.turns + excluded.turns, errors = o.errors + excluded.errors,
           unpriced = o.unpriced + excluded.unpriced, input_tokens = o.input_tokens + excluded.input_tokens,
           output_tokens = o.output_tokens + excluded.output_tokens,
           cached_tokens = o.cached_tokens + excluded.cached_tokens,
           reasoning_tokens = o.reasoning_tokens + excluded.reasoning_tokens,
           cost_nanos = o.cost_nanos + excluded.cost_nanos, latency_ms = o.latency_ms + excluded.latency_ms,
           latencies = o.latencies + excluded.latencies, reported = o.reported + excluded.reported,
           reported_input_tokens = o.reported_input_tokens + excluded.reported_input_tokens,
           reported_output_tokens = o.reported_output_tokens + excluded.reported_output_tokens,
           reported_nanos = o.reported_nanos + excluded.reported_nanos, last_at = greatest(o.last_at, excluded.last_at);
    IF TG_OP = 'INSERT' AND NOT EXISTS (
            SELECT FROM agentapi.usage_agents_of_persons o WHERE o.org_id = v.org_id AND o.person = v.person
               AND o.agent = v.agent AND o.last_day >= v.day) THEN
        SELECT o.id INTO v_id FROM agentapi.usage_agents_of_persons o
         WHERE o.org_id = v.org_id AND o.person = v.person AND o.agent = v.agent LIMIT 1 FOR UPDATE SKIP LOCKED;
        INSERT INTO agentapi.usage_agents_of_persons AS o (id, org_id, person, agent, last_day)
        VALUES (coalesce(v_id, gen_random_uuid()), v.org_id, v.person, v.agent, v.day)
        ON CONFLICT (id) DO UPDATE SET last_day = greatest(o.last_day, excluded.last_day);
    END IF;
    RETURN NULL;
END
$function$;
REVOKE ALL ON FUNCTION agentapi.roll_up() FROM PUBLIC, anon, authenticated, service_role;

-- Those that are there, those of a day side by side. From here on no turn ends until this is done.
LOCK TABLE agentapi.usage_daily IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO agentapi.usage_daily_of_organizations (org_id, day, agent, model, provider,
    interaction_type, turns, errors, unpriced, input_tokens, output_tokens,
    cached_tokens, reasoning_tokens, cost_nanos, latency_ms, latencies, reported, reported_input_tokens,
    reported_output_tokens, reported_nanos, last_at)
SELECT d.org_id, d.day, d.agent, d.model, d.provider, d.interaction_type, sum(d.turns), sum(d.errors), sum(d.unpriced),
       sum(d.input_tokens), sum(d.output_tokens), sum(d.cached_tokens), sum(d.reasoning_tokens), sum(d.cost_nanos),
       sum(d.latency_ms), sum(d.latencies), sum(d.reported), sum(d.reported_input_tokens),
       sum(d.reported_output_tokens), sum(d.reported_nanos), max(d.last_at)
  FROM agentapi.usage_daily d GROUP BY d.org_id, d.day, d.agent, d.model, d.provider, d.interaction_type ORDER BY d.day, d.org_id;
INSERT INTO agentapi.usage_daily_of_persons (org_id, day, person, turns, errors, unpriced,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens,
    cost_nanos, latency_ms, latencies, reported, reported_input_tokens, reported_output_tokens, reported_nanos, last_at)
SELECT d.org_id, d.day, d.person, sum(d.turns), sum(d.errors), sum(d.unpriced), sum(d.input_tokens),
       sum(d.output_tokens), sum(d.cached_tokens), sum(d.reasoning_tokens), sum(d.cost_nanos), sum(d.latency_ms),
       sum(d.latencies), sum(d.reported), sum(d.reported_input_tokens), sum(d.reported_output_tokens),
       sum(d.reported_nanos), max(d.last_at)
  FROM agentapi.usage_daily d GROUP BY d.org_id, d.day, d.person ORDER BY d.day, d.org_id;
INSERT INTO agentapi.usage_agents_of_persons (org_id, person, agent, last_day)
SELECT d.org_id, d.person, d.agent, max(d.day) FROM agentapi.usage_daily d GROUP BY d.org_id, d.person, d.agent;
-- Ratings are in none.
CREATE TRIGGER roll_up AFTER INSERT OR UPDATE OF turns ON agentapi.usage_daily FOR EACH ROW
    EXECUTE FUNCTION agentapi.roll_up();


-- Totals of the bound organisation for its administrators, as before, with the turns of the last thirty days from the
-- ledger: what a conversation has cost is not forgotten with it.
CREATE OR REPLACE FUNCTION agentapi.organization_numbers(OUT members bigint, OUT sessions bigint, OUT messages bigint,
    OUT turns jsonb, OUT input_tokens bigint, OUT output_tokens bigint, OUT cost_usd numeric)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH org AS (
        SELECT o AS id FROM unnest(agentapi.own_organization_ids()) AS o
         WHERE o = agentapi.bound_organization() AND agentapi.may('organization:read', '{admin,owner}', 'admin')
    ), recent AS (
        SELECT l.outcome, count(*) FILTER (WHERE l.kind = 'turn') AS n, sum(l.input_tokens) AS input_tokens,
               sum(l.output_tokens) AS output_tokens, sum(l.cost_nanos) AS cost_nanos
          FROM agentapi.ledger l JOIN org ON org.id = l.org_id
         WHERE l.at > now() - interval '30 days' GROUP BY 1
    )
    SELECT (SELECT count(*) FROM public.organization_members m JOIN org ON org.id = m.organization_id),
           (SELECT count(*) FROM public.chat_sessions s JOIN org ON org.id = s.org_id),
           (SELECT count(*) FROM public.chat_sessions s JOIN org ON org.id = s.org_id
              JOIN public.chat_messages c ON c.session_id = s.id),
           (SELECT coalesce(jsonb_object_agg(outcome, n) FILTER (WHERE n > 0), '{}') FROM recent),
           (SELECT coalesce(sum(input_tokens), 0) FROM recent)::bigint,
           (SELECT coalesce(sum(output_tokens), 0) FROM recent)::bigint,
           (SELECT sum(cost_nanos) * 0.000000001 FROM recent)
      FROM org
$$;
