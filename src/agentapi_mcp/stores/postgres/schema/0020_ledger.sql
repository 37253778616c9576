-- needs: 0.1.0
-- The ledger: what every turn has cost, for good, and its sums by day. Triggers on agentapi.turns write both in the
-- transaction that ends a turn, whoever ends it: so none is missing and none stands there twice.

-- 1. People. Ledger and sums hold a random id in place of a user's, and this row alone says whose it is: without it,
--    they are about nobody. No row of them is changed for that.
CREATE TABLE agentapi.people (
    user_id uuid PRIMARY KEY REFERENCES public.profiles (id) ON DELETE CASCADE,
    person uuid NOT NULL UNIQUE DEFAULT gen_random_uuid()
);
ALTER TABLE agentapi.people ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON agentapi.people FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, DELETE ON agentapi.people TO agentapi_system;
CREATE POLICY agentapi_system ON agentapi.people TO agentapi_system USING (true);

-- The person who a user is, made where there is none yet. A user who is deleted meanwhile is a person of whom nobody
-- knows anything else.
CREATE FUNCTION agentapi.person_of(p_user uuid) RETURNS uuid LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_person uuid := (SELECT p.person FROM agentapi.people p WHERE p.user_id = p_user);
BEGIN
    IF v_person IS NULL THEN
        INSERT INTO agentapi.people AS p (user_id) SELECT f.id FROM public.profiles f WHERE f.id = p_user FOR KEY SHARE
        ON CONFLICT (user_id) DO UPDATE SET person = p.person RETURNING p.person INTO v_person;
    END IF;
    RETURN coalesce(v_person, gen_random_uuid());
END
$function$;
-- The person who the caller is, without a right to look for others.
CREATE FUNCTION agentapi.own_person() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS
    $$ SELECT p.person FROM agentapi.people p WHERE p.user_id = auth.uid() $$;
-- The organisations all of whose ledger the caller may read, as an administrator.
CREATE FUNCTION agentapi.accounted_organization_ids() RETURNS uuid[] LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS
    $$ SELECT CASE WHEN agentapi.bound_organization() IS NULL
                   THEN (SELECT coalesce(array_agg(m.organization_id), '{}') FROM public.organization_members m
                          WHERE m.user_id = auth.uid() AND m.role IN ('admin', 'owner')
                            AND agentapi.membership_status(m.user_id, m.organization_id) = 'active')
                   WHEN agentapi.may('organization:read', '{admin,owner}', 'admin')
                   THEN agentapi.own_organization_ids() ELSE '{}' END $$;


-- 2. Whose key or account a turn is asked with, known when it begins.
-- paid_by        whose: user, account, organization or server
-- paid_provider  the provider that sends the bill, by its id; null where an agent names none
-- paid_key       the key, where it is one of agentapi.user_api_keys
ALTER TABLE agentapi.turns ADD COLUMN paid_by text, ADD COLUMN paid_provider text, ADD COLUMN paid_key uuid;
GRANT SELECT (paid_by, paid_provider) ON agentapi.turns TO authenticated;

-- The claim agentapi_payment names it, with the statement that begins the turn.
CREATE FUNCTION agentapi.note_payment() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_payment CONSTANT jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb -> 'agentapi_payment';
BEGIN
    NEW.paid_by := v_payment ->> 'by';
    NEW.paid_provider := v_payment ->> 'provider';
    NEW.paid_key := (v_payment ->> 'key')::uuid;
    RETURN NEW;
END
$function$;
REVOKE ALL ON FUNCTION agentapi.note_payment() FROM PUBLIC, anon, authenticated, service_role;
CREATE TRIGGER note_payment BEFORE INSERT ON agentapi.turns FOR EACH ROW EXECUTE FUNCTION agentapi.note_payment();


-- 3. The ledger. Nobody has a right to write it; its rows are added by the triggers, which have their owner's rights.
-- at                when the turn ended; a correction has the time of what it corrects, so that sums of a day are whole
-- recorded_at       when the row was written
-- kind              turn: a turn's bill. correction: by how much a later bill differs; its sums are differences. reported:
--                   what a user says of a conversation elsewhere, with the session's id as turn_id. It has columns of its
--                   own, so that no sum can mix it with what was billed: it has no tokens, costs 0 and is no turn
-- attempt           which of the turn's attempts, from 1
-- model, model_used the one that was asked for, and the one that answered
-- provider          that sends the bill; served_by is the one that it let answer, as it said
-- cost_nanos        billionths of a US dollar; null is unknown, and then unpriced is 1. In a correction that makes it
--                   known, unpriced is -1: the sums of both columns are true together
-- outcome           status of the turn, or deleted: it was running when its conversation was deleted
CREATE TABLE agentapi.ledger (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL CHECK (kind IN ('turn', 'correction', 'reported')),
    org_id uuid NOT NULL,
    person uuid NOT NULL,
    session_id uuid NOT NULL,
    turn_id uuid NOT NULL,
    attempt smallint NOT NULL DEFAULT 1,
    agent text NOT NULL,
    backend text NOT NULL,
    model text,
    model_used text,
    provider text,
    served_by text,
    paid_by text,
    paid_key uuid,
    input_tokens bigint,
    output_tokens bigint,
    cached_tokens bigint,
    reasoning_tokens bigint,
    cost_nanos bigint,
    unpriced smallint NOT NULL,
    cost_source text,
    priced_on date,
    billing_may_go_on boolean NOT NULL,
    latency_ms integer,
    time_to_first_token_ms integer,
    outcome text NOT NULL,
    interaction_type text,
    reported_input_tokens bigint,
    reported_output_tokens bigint,
    reported_nanos bigint,
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
CREATE INDEX ledger_of_organization ON agentapi.ledger (org_id, at);
CREATE INDEX ledger_of_person ON agentapi.ledger (person, at);
CREATE INDEX ledger_of_turn ON agentapi.ledger (turn_id);
CREATE TABLE agentapi.ledger_default PARTITION OF agentapi.ledger DEFAULT;

-- Sums by day in UTC. Where there is no model, provider or interaction type when the turn ends, the name is empty.
-- latency              how many turns took how long: by agentapi.latency_bucket, from 1
-- ratings, rating_sum  how many sessions and turns were rated, and the sum of it, on the day of what was rated: that on
--                      which the turn ended; of a session, its first turn
CREATE TABLE agentapi.usage_daily (
    org_id uuid NOT NULL,
    day date NOT NULL,
    person uuid NOT NULL,
    agent text NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    interaction_type text NOT NULL,
    turns integer NOT NULL,
    errors integer NOT NULL,
    unpriced integer NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    latency_ms bigint NOT NULL,
    latency integer[] NOT NULL,
    last_at timestamptz NOT NULL,
    reported integer NOT NULL,
    reported_input_tokens bigint NOT NULL,
    reported_output_tokens bigint NOT NULL,
    reported_nanos bigint NOT NULL,
    ratings integer NOT NULL DEFAULT 0,
    rating_sum integer NOT NULL DEFAULT 0,
    usefulness_ratings integer NOT NULL DEFAULT 0,
    usefulness_sum integer NOT NULL DEFAULT 0,
    PRIMARY KEY (org_id, day, person, agent, model, provider, interaction_type)
) WITH (fillfactor = 80);
CREATE INDEX usage_daily_of_person ON agentapi.usage_daily (person, day);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['agentapi.ledger', 'agentapi.ledger_default', 'agentapi.usage_daily'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, anon, authenticated, service_role, agentapi_system', t);
    END LOOP;
    -- A net: the statements name their person or organisation, by which the indexes find the rows.
    FOREACH t IN ARRAY ARRAY['agentapi.ledger', 'agentapi.usage_daily'] LOOP
        EXECUTE format('GRANT SELECT ON %s TO authenticated, agentapi_system', t);
        EXECUTE format('CREATE POLICY agentapi_system ON %s FOR SELECT TO agentapi_system USING (true)', t);
        EXECUTE format($policy$
            CREATE POLICY agentapi_own ON %s FOR SELECT TO authenticated
                USING (org_id = ANY ((SELECT agentapi.accounted_organization_ids())::uuid[])
                       OR person = (SELECT agentapi.own_person())
                          AND org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
                          AND ((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see())))
        $policy$, t);
    END LOOP;
END
$$;

-- Buckets of 100 ms or less, and from there on half as long again each: the last has everything beyond 12 minutes.
CREATE FUNCTION agentapi.latency_bucket(ms bigint) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
    $$ SELECT CASE WHEN ms <= 100 THEN 1 ELSE least(ceil(ln(ms / 100.0::double precision)
                                                         / ln(1.5::double precision))::integer + 1, 24) END $$;
-- An amount in nano-dollars. No turn costs a million dollars, and sums of what does not must fit.
CREATE FUNCTION agentapi.nanos(usd numeric) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
    $$ SELECT round(least(greatest(usd, 0), 1000000) * 1000000000)::bigint $$;
-- The day in a text such as a cost's source; null without a real one.
CREATE FUNCTION agentapi.day_in(words text) RETURNS date LANGUAGE plpgsql IMMUTABLE SET datestyle = 'ISO' AS
$function$
DECLARE
    v_day CONSTANT text := substring(words FROM '\d{4}-\d{2}-\d{2}');
BEGIN
    IF v_day IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN v_day::date;
EXCEPTION WHEN datetime_field_overflow THEN
    RETURN NULL;
END
$function$;


-- 4. Entries.
-- Adds an entry, and what it says to the sums of its day.
CREATE FUNCTION agentapi.enter(e agentapi.ledger) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_turns CONSTANT integer := (e.kind = 'turn')::integer;
    v_reported CONSTANT integer := (e.kind = 'reported')::integer;
    v_bucket CONSTANT integer := agentapi.latency_bucket(e.latency_ms);
    v_latency integer[] := array_fill(0, ARRAY[24]);
BEGIN
    INSERT INTO agentapi.ledger VALUES (e.*);
    IF v_turns = 1 AND v_bucket IS NOT NULL THEN
        v_latency[v_bucket] := 1;
    END IF;
    INSERT INTO agentapi.usage_daily AS d (org_id, day, person, agent, model, provider, interaction_type, turns, errors,
        unpriced, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_nanos, latency_ms, latency, last_at,
        reported, reported_input_tokens, reported_output_tokens, reported_nanos)
    VALUES (e.org_id, (e.at AT TIME ZONE 'UTC')::date, e.person, e.agent, coalesce(e.model_used, e.model, ''),
        coalesce(e.provider, ''), coalesce(e.interaction_type, ''), v_turns,
        CASE WHEN e.outcome IN ('failed', 'interrupted') THEN v_turns ELSE 0 END,
        e.unpriced, coalesce(e.input_tokens, 0), coalesce(e.output_tokens, 0), coalesce(e.cached_tokens, 0),
        coalesce(e.reasoning_tokens, 0), coalesce(e.cost_nanos, 0), coalesce(e.latency_ms, 0) * v_turns, v_latency, e.at,
        v_reported, coalesce(e.reported_input_tokens, 0), coalesce(e.reported_output_tokens, 0),
        coalesce(e.reported_nanos, 0))
    ON CONFLICT (org_id, day, person, agent, model, provider, interaction_type) DO UPDATE
       SET turns = d.turns + excluded.turns, errors = d.errors + excluded.errors, unpriced = d.unpriced + excluded.unpriced,
           input_tokens = d.input_tokens + excluded.input_tokens, output_tokens = d.output_tokens + excluded.output_tokens,
           cached_tokens = d.cached_tokens + excluded.cached_tokens,
           reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens,
           cost_nanos = d.cost_nanos + excluded.cost_nanos, latency_ms = d.latency_ms + excluded.latency_ms,
           latency[coalesce(v_bucket, 1)] = d.latency[coalesce(v_bucket, 1)] + excluded.latency[coalesce(v_bucket, 1)],
           last_at = greatest(d.last_at, excluded.last_at), reported = d.reported + excluded.reported,
           reported_input_tokens = d.reported_input_tokens + excluded.reported_input_tokens,
           reported_output_tokens = d.reported_output_tokens + excluded.reported_output_tokens,
           reported_nanos = d.reported_nanos + excluded.reported_nanos;
END
$function$;

-- The entry of a turn as its row is.
CREATE FUNCTION agentapi.entry_of(t agentapi.turns) RETURNS agentapi.ledger
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    e agentapi.ledger;
BEGIN
    e.id := gen_random_uuid();
    e.at := t.ended_at;
    e.recorded_at := clock_timestamp();
    e.kind := 'turn';
    e.org_id := t.org_id;
    e.person := agentapi.person_of(t.user_id);
    e.session_id := t.session_id;
    e.turn_id := t.id;
    e.attempt := 1;
    e.agent := t.agent_name;
    e.backend := t.backend;
    e.model := t.model_name;
    e.model_used := t.model_used;
    e.provider := t.paid_provider;
    e.served_by := t.provider;
    -- A turn of before these columns says it with its answer.
    e.paid_by := coalesce(t.paid_by, t.route -> 0 ->> 'key');
    e.paid_key := t.paid_key;
    e.input_tokens := t.input_tokens;
    e.output_tokens := t.output_tokens;
    e.cached_tokens := t.cached_tokens;
    e.reasoning_tokens := t.reasoning_tokens;
    -- What was never asked is known to have cost nothing.
    e.cost_nanos := CASE WHEN t.asked_at IS NULL AND t.cost_usd IS NULL THEN 0
                         ELSE agentapi.nanos(t.cost_usd) END;
    e.unpriced := (e.cost_nanos IS NULL)::integer;
    e.cost_source := t.cost_source;
    e.priced_on := agentapi.day_in(t.cost_source);
    e.billing_may_go_on := t.billing_may_go_on;
    e.latency_ms := t.latency_ms;
    e.time_to_first_token_ms := t.time_to_first_token_ms;
    e.outcome := t.status;
    e.interaction_type := (SELECT f.interaction_type FROM agentapi.session_facts f WHERE f.session_id = t.session_id);
    RETURN e;
END
$function$;

-- An entry by how much a later one differs from an earlier one of the same turn.
CREATE FUNCTION agentapi.correction_of(old agentapi.ledger, new agentapi.ledger) RETURNS agentapi.ledger
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    e agentapi.ledger := new;
BEGIN
    e.id := gen_random_uuid();
    e.kind := 'correction';
    e.at := old.at;
    e.person := old.person;
    -- Of the same sums: what the later bill says of the model does not move the turn.
    e.model := old.model;
    e.model_used := old.model_used;
    e.input_tokens := coalesce(new.input_tokens, 0) - coalesce(old.input_tokens, 0);
    e.output_tokens := coalesce(new.output_tokens, 0) - coalesce(old.output_tokens, 0);
    e.cached_tokens := coalesce(new.cached_tokens, 0) - coalesce(old.cached_tokens, 0);
    e.reasoning_tokens := coalesce(new.reasoning_tokens, 0) - coalesce(old.reasoning_tokens, 0);
    e.cost_nanos := coalesce(new.cost_nanos, 0) - coalesce(old.cost_nanos, 0);
    e.unpriced := new.unpriced - old.unpriced;
    e.latency_ms := NULL;
    e.time_to_first_token_ms := NULL;
    e.outcome := old.outcome;
    RETURN e;
END
$function$;

-- Enters a turn when it ends, or is deleted while it runs; and what a later bill says differently.
CREATE FUNCTION agentapi.account_turn() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    e agentapi.ledger;
    c_open CONSTANT text[] := ARRAY['running', 'input_required'];
BEGIN
    IF TG_OP = 'DELETE' THEN
        OLD.ended_at := clock_timestamp();
        e := agentapi.entry_of(OLD);
        e.outcome := 'deleted';
        PERFORM agentapi.enter(e);
    ELSIF OLD.status = ANY (c_open) THEN
        PERFORM agentapi.enter(agentapi.entry_of(NEW));
    ELSE
        e := agentapi.correction_of(agentapi.entry_of(OLD), agentapi.entry_of(NEW));
        -- Of the kind as which the turn was counted, whatever its session has become since.
        e.interaction_type := (SELECT l.interaction_type FROM agentapi.ledger l
                                WHERE l.turn_id = OLD.id AND l.at = OLD.ended_at AND l.kind = 'turn' LIMIT 1);
        PERFORM agentapi.enter(e);
    END IF;
    RETURN NULL;
END
$function$;

-- Corrects the entry of a turn that was deleted while it ran, once, by the bill that its answer brought after all. For
-- the program alone: the row that would say whose turn it was is gone. SECURITY DEFINER: nobody else may write here.
CREATE FUNCTION agentapi.bill_deleted(p_turn uuid, p_bill agentapi.turns) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_old agentapi.ledger;
    v_new agentapi.ledger;
BEGIN
    SELECT * INTO v_old FROM agentapi.ledger l
     WHERE l.turn_id = p_turn AND l.outcome = 'deleted' AND l.at > clock_timestamp() - interval '1 day'
       AND NOT EXISTS (SELECT FROM agentapi.ledger c WHERE c.turn_id = p_turn AND c.kind = 'correction');
    -- Not another's, unless nobody knows any more whose it was.
    IF FOUND AND v_old.org_id = agentapi.bound_organization() AND NOT EXISTS (
           SELECT FROM agentapi.people p WHERE p.person = v_old.person AND p.user_id IS DISTINCT FROM auth.uid()) THEN
        v_new := v_old;
        v_new.input_tokens := p_bill.input_tokens;
        v_new.output_tokens := p_bill.output_tokens;
        v_new.cached_tokens := p_bill.cached_tokens;
        v_new.reasoning_tokens := p_bill.reasoning_tokens;
        v_new.cost_nanos := agentapi.nanos(p_bill.cost_usd);
        v_new.unpriced := (v_new.cost_nanos IS NULL)::integer;
        v_new.cost_source := p_bill.cost_source;
        v_new.priced_on := agentapi.day_in(p_bill.cost_source);
        v_new.served_by := p_bill.provider;
        PERFORM agentapi.enter(agentapi.correction_of(v_old, v_new));
    END IF;
END
$function$;

-- Adds to the ratings of a day: those of the entry of a turn, or of what was reported under a session's id.
CREATE FUNCTION agentapi.enter_rating(p_turn uuid, p_ratings integer, p_sum integer, p_useful integer, p_useful_sum integer)
RETURNS void LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
    UPDATE agentapi.usage_daily d
       SET ratings = d.ratings + p_ratings, rating_sum = d.rating_sum + p_sum,
           usefulness_ratings = d.usefulness_ratings + p_useful, usefulness_sum = d.usefulness_sum + p_useful_sum
      FROM (SELECT * FROM agentapi.ledger l WHERE l.turn_id = p_turn AND l.kind IN ('turn', 'reported') LIMIT 1) AS l
     WHERE d.org_id = l.org_id AND d.day = (l.at AT TIME ZONE 'UTC')::date AND d.person = l.person AND d.agent = l.agent
       AND d.model = coalesce(l.model_used, l.model, '') AND d.provider = coalesce(l.provider, '')
       AND d.interaction_type = coalesce(l.interaction_type, '')
$function$;

-- Enters what happened elsewhere, once, and the ratings of a session; after the row is there, so that one that is not
-- written again is not counted again.
CREATE FUNCTION agentapi.account_facts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    e agentapi.ledger;
    old_rating smallint;
    old_usefulness smallint;
    v_turn uuid;
    v_open boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        old_rating := OLD.rating;
        old_usefulness := OLD.usefulness;
    ELSIF NEW.recorded_at IS NOT NULL THEN
        e.id := gen_random_uuid();
        e.at := least(coalesce(NEW.ended_at, NEW.recorded_at), NEW.recorded_at);
        e.recorded_at := clock_timestamp();
        e.kind := 'reported';
        e.org_id := NEW.org_id;
        e.person := agentapi.person_of(NEW.user_id);
        e.session_id := NEW.session_id;
        e.turn_id := NEW.session_id;
        e.attempt := 1;
        e.agent := coalesce(NEW.agent_elsewhere, (SELECT a.name FROM public.chat_sessions s
                                                    JOIN public.agents a ON a.id = s.agent_id
                                                   WHERE s.id = NEW.session_id), 'elsewhere');
        e.backend := 'elsewhere';
        e.model := NEW.model;
        e.provider := NEW.provider;
        e.cost_nanos := 0;
        e.unpriced := 0;
        e.cost_source := 'reported by the user';
        e.billing_may_go_on := false;
        e.outcome := 'completed';
        e.interaction_type := NEW.interaction_type;
        e.reported_input_tokens := NEW.reported_input_tokens;
        e.reported_output_tokens := NEW.reported_output_tokens;
        e.reported_nanos := agentapi.nanos(NEW.reported_cost_usd);
        PERFORM agentapi.enter(e);
    END IF;
    IF (NEW.rating, NEW.usefulness) IS DISTINCT FROM (old_rating, old_usefulness) THEN
        SELECT t.id, t.ended_at IS NULL INTO v_turn, v_open FROM agentapi.turns t WHERE t.session_id = NEW.session_id
         ORDER BY t.created_at, t.id LIMIT 1;
        IF NEW.recorded_at IS NOT NULL THEN
            v_turn := NEW.session_id;
        ELSIF v_open THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = 'a session is rated once its first turn has ended';
        END IF;
        PERFORM agentapi.enter_rating(v_turn,
            (NEW.rating IS NOT NULL)::integer - (old_rating IS NOT NULL)::integer,
            coalesce(NEW.rating, 0) - coalesce(old_rating, 0),
            (NEW.usefulness IS NOT NULL)::integer - (old_usefulness IS NOT NULL)::integer,
            coalesce(NEW.usefulness, 0) - coalesce(old_usefulness, 0));
    END IF;
    RETURN NULL;
END
$function$;
CREATE TRIGGER account_facts AFTER INSERT OR UPDATE ON agentapi.session_facts FOR EACH ROW
    EXECUTE FUNCTION agentapi.account_facts();

CREATE FUNCTION agentapi.account_turn_rating() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    old_rating smallint;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        old_rating := OLD.rating;
    END IF;
    IF NEW.rating IS DISTINCT FROM old_rating THEN
        PERFORM agentapi.enter_rating(NEW.turn_id, (NEW.rating IS NOT NULL)::integer - (old_rating IS NOT NULL)::integer,
            coalesce(NEW.rating, 0) - coalesce(old_rating, 0), 0, 0);
    END IF;
    RETURN NULL;
END
$function$;
CREATE TRIGGER account_turn_rating AFTER INSERT OR UPDATE ON agentapi.turn_ratings FOR EACH ROW
    EXECUTE FUNCTION agentapi.account_turn_rating();

REVOKE ALL ON FUNCTION agentapi.person_of(uuid), agentapi.own_person(), agentapi.accounted_organization_ids(),
    agentapi.latency_bucket(bigint), agentapi.nanos(numeric), agentapi.day_in(text), agentapi.enter(agentapi.ledger),
    agentapi.entry_of(agentapi.turns), agentapi.correction_of(agentapi.ledger, agentapi.ledger), agentapi.account_turn(),
    agentapi.bill_deleted(uuid, agentapi.turns), agentapi.account_facts(), agentapi.account_turn_rating(),
    agentapi.enter_rating(uuid, integer, integer, integer, integer) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.own_person(), agentapi.accounted_organization_ids() TO authenticated;
GRANT EXECUTE ON FUNCTION agentapi.bill_deleted(uuid, agentapi.turns) TO agentapi_writer;

-- Creates the partitions of a moment's month and of the next, where they are missing, and moves their rows out of the
-- default partition. SECURITY DEFINER: the program owns no table.
CREATE FUNCTION agentapi.keep_partitions(moment timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS
$function$
DECLARE
    begins timestamptz;
    ends timestamptz;
    whole text;
    part text;
BEGIN
    IF moment NOT BETWEEN now() - interval '2 years' AND now() + interval '2 years' THEN
        RAISE EXCEPTION 'partitions are made within two years of now alone';
    END IF;
    FOREACH whole IN ARRAY ARRAY['audit_events', 'ledger'] LOOP
        FOR n IN 0..1 LOOP
            begins := (date_trunc('month', moment AT TIME ZONE 'UTC') + make_interval(months => n)) AT TIME ZONE 'UTC';
            ends := (date_trunc('month', moment AT TIME ZONE 'UTC') + make_interval(months => n + 1)) AT TIME ZONE 'UTC';
            part := whole || to_char(begins AT TIME ZONE 'UTC', '_YYYY_MM');
            CONTINUE WHEN to_regclass('agentapi.' || part) IS NOT NULL;
            EXECUTE format('LOCK TABLE agentapi.%I IN ACCESS EXCLUSIVE MODE', whole || '_default');
            CONTINUE WHEN to_regclass('agentapi.' || part) IS NOT NULL;
            EXECUTE format('CREATE TABLE agentapi.%I (LIKE agentapi.%I INCLUDING ALL)', part, whole);
            EXECUTE format('REVOKE ALL ON agentapi.%I FROM PUBLIC, anon, authenticated, service_role, agentapi_system', part);
            EXECUTE format('ALTER TABLE agentapi.%I ENABLE ROW LEVEL SECURITY', part);
            EXECUTE format(
                'WITH moved AS (DELETE FROM agentapi.%I WHERE at >= %L AND at < %L RETURNING *) '
                'INSERT INTO agentapi.%I SELECT * FROM moved', whole || '_default', begins, ends, part);
            EXECUTE format(
                'ALTER TABLE agentapi.%I ATTACH PARTITION agentapi.%I FOR VALUES FROM (%L) TO (%L)',
                whole, part, begins, ends);
        END LOOP;
    END LOOP;
END
$function$;
REVOKE ALL ON FUNCTION agentapi.keep_partitions(timestamptz) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.keep_partitions(timestamptz) TO agentapi_system;
-- For a program of before.
CREATE OR REPLACE FUNCTION agentapi.keep_audit_partitions(moment timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $function$ SELECT agentapi.keep_partitions(moment) $function$;


-- 5. The turns that are there, and the triggers for those to come. From here on no turn ends until this is done.
LOCK TABLE agentapi.turns IN SHARE ROW EXCLUSIVE MODE;
SELECT agentapi.keep_partitions(m.month) FROM (
    SELECT date_trunc('month', now()) UNION
    SELECT DISTINCT date_trunc('month', t.ended_at) FROM agentapi.turns t
     WHERE t.ended_at BETWEEN now() - interval '23 months' AND now() + interval '23 months') AS m (month);
UPDATE agentapi.turns t SET paid_provider = lower(btrim(m.provider)) FROM public.models m WHERE m.id = t.model_row_id;
SELECT count(agentapi.enter(agentapi.entry_of(t))) FROM (
    SELECT * FROM agentapi.turns WHERE status NOT IN ('running', 'input_required') ORDER BY created_at, id) AS t;

CREATE TRIGGER account_turn AFTER UPDATE ON agentapi.turns FOR EACH ROW
    WHEN (OLD.status IN ('running', 'input_required') AND NEW.status NOT IN ('running', 'input_required')
          OR OLD.status NOT IN ('running', 'input_required')
             AND (OLD.input_tokens, OLD.output_tokens, OLD.cached_tokens, OLD.reasoning_tokens, OLD.cost_usd)
                 IS DISTINCT FROM
                 (NEW.input_tokens, NEW.output_tokens, NEW.cached_tokens, NEW.reasoning_tokens, NEW.cost_usd))
    EXECUTE FUNCTION agentapi.account_turn();
CREATE TRIGGER account_deleted_turn AFTER DELETE ON agentapi.turns FOR EACH ROW
    WHEN (OLD.status IN ('running', 'input_required')) EXECUTE FUNCTION agentapi.account_turn();

-- Ends a turn for the principal in `p_claims`, under row-level security and fenced by the lease. `p_cost` has the columns
-- of the turn's cost. `outcome` is `ended`, also where this owner had ended it before, or `lost` where somebody else has:
-- then its bill is kept, where none is known, and nothing else.
CREATE OR REPLACE FUNCTION agentapi.end_turn_1(p_claims text, p_end jsonb, p_reply text, p_cost jsonb, OUT outcome text,
    OUT ended timestamptz, OUT cancel_requested timestamptz, OUT reply_message uuid)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    n record;
    c agentapi.turns;
    v_at timestamptz;
BEGIN
    PERFORM set_config('request.jwt.claims', p_claims, true), set_config('role', 'agentapi_writer', true),
            set_config('lock_timeout', '2s', true);
    SELECT * INTO n FROM jsonb_to_record(p_end) AS r (
        id uuid, session uuid, owner uuid, message uuid, status text, end_reason text, stop_reason text, error jsonb,
        warning text, history_dropped integer, state jsonb, asked boolean, caller_gone boolean, events jsonb);
    c := jsonb_populate_record(NULL::agentapi.turns, p_cost);
    -- The session's row first, in the same order as everywhere: no deadlock.
    SELECT greatest(clock_timestamp(), coalesce(s.last_message_at, s.created_at) + interval '1 microsecond') INTO v_at
      FROM public.chat_sessions s WHERE s.id = n.session FOR UPDATE;
    UPDATE agentapi.turns t SET status = n.status, end_reason = n.end_reason, stop_reason = n.stop_reason, error = n.error,
        warning = n.warning, history_dropped = n.history_dropped, backend_state = n.state,
        assistant_message_id = n.message, input_tokens = c.input_tokens, output_tokens = c.output_tokens,
        cached_tokens = c.cached_tokens, reasoning_tokens = c.reasoning_tokens, cost_usd = c.cost_usd,
        cost_source = c.cost_source, billing_may_go_on = c.billing_may_go_on, latency_ms = c.latency_ms,
        time_to_first_token_ms = c.time_to_first_token_ms, model_used = c.model_used, provider = c.provider,
        route = c.route, cost_details = coalesce(c.cost_details, '{}'), partial_text = '', lease_owner = NULL,
        lease_until = NULL, ended_by = n.owner,
        ended_at = greatest(clock_timestamp(), t.created_at),
        asked_at = CASE WHEN n.asked THEN t.asked_at END,
        cancel_requested_at = CASE WHEN n.end_reason = 'cancel_turn' THEN coalesce(t.cancel_requested_at, clock_timestamp())
                                   ELSE t.cancel_requested_at END,
        caller_gone_at = CASE WHEN n.caller_gone THEN coalesce(t.caller_gone_at, clock_timestamp())
                              ELSE t.caller_gone_at END
     WHERE t.id = n.id AND t.lease_owner = n.owner AND t.status IN ('running', 'input_required')
    RETURNING t.ended_at, t.cancel_requested_at, t.assistant_message_id INTO ended, cancel_requested, reply_message;
    IF NOT FOUND THEN
        SELECT t.ended_at, t.cancel_requested_at, t.assistant_message_id INTO ended, cancel_requested, reply_message
          FROM agentapi.turns t WHERE t.id = n.id AND t.ended_by = n.owner;
        outcome := CASE WHEN FOUND THEN 'ended' ELSE 'lost' END;
        -- Of a turn that was settled meanwhile nobody knew the bill, and it is paid all the same.
        IF outcome = 'lost' THEN
            UPDATE agentapi.turns t SET input_tokens = c.input_tokens, output_tokens = c.output_tokens,
                cached_tokens = c.cached_tokens, reasoning_tokens = c.reasoning_tokens, cost_usd = c.cost_usd,
                cost_source = c.cost_source, model_used = c.model_used, provider = c.provider, route = c.route,
                cost_details = coalesce(c.cost_details, '{}')
             WHERE t.id = n.id AND t.end_reason = 'lease_expired' AND t.input_tokens IS NULL AND t.output_tokens IS NULL
               AND t.cost_usd IS NULL;
            IF NOT FOUND AND NOT EXISTS (SELECT FROM agentapi.turns t WHERE t.id = n.id) THEN
                PERFORM agentapi.bill_deleted(n.id, c);
            END IF;
        END IF;
        RETURN;
    END IF;
    IF n.message IS NOT NULL THEN
        INSERT INTO public.chat_messages
            (id, session_id, role, content, tokens_in, tokens_out, tokens_total, metadata, created_at)
        VALUES (n.message, n.session, 'assistant', p_reply, c.input_tokens, c.output_tokens,
            c.input_tokens + c.output_tokens, jsonb_build_object('turn_id', n.id, 'status', n.status), v_at);
        UPDATE public.chat_sessions s SET last_message_at = v_at WHERE s.id = n.session;
    END IF;
    outcome := 'ended';

    PERFORM set_config('role', 'agentapi_system', true);
    INSERT INTO agentapi.audit_events (id, at, org_id, user_id, via, client, address, request_id, action, target_kind,
                                       target_id, outcome, details)
    SELECT e.id, e.at, e.org_id, e.user_id, e.via, e.client, e.address, e.request_id, e.action, e.target_kind, e.target_id,
           e.outcome, e.details
      FROM jsonb_to_recordset(n.events) AS e (
           id uuid, at timestamptz, org_id uuid, user_id uuid, via text, client text, address text, request_id text,
           action text, target_kind text, target_id text, outcome text, details jsonb);
END
$function$;
-- CREATE OR REPLACE takes such a setting away.
ALTER FUNCTION agentapi.end_turn_1(text, jsonb, text, jsonb) SET plan_cache_mode = 'force_generic_plan';
