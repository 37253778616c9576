-- needs: 0.1.0
-- Budgets: what users, organisations, agents and keys may spend in a day, in a month, or at all. A trigger on
-- agentapi.turns reserves what a turn may cost where it begins, and another one settles it where it ends, whoever does
-- either: spent and reserved together are never more than a hard limit when something is reserved.

-- 1. Tables.
-- org_id       whose; of a plan's it is null, and it holds for every organisation with that `plan` in its settings
-- scope        organization: all of it together. member: each of its members for themselves. user, agent, key: the one
--              that `subject` says, by its id or the agent's name
-- user_id      the user, also of a user's key
-- hard         refuses turns; a soft one warns
-- by_operator  set by the operator: administrators see it, and set others beside it
-- One of each kind, so that a turn has 84 of them at most: with those of the agent that lends its model.
CREATE TABLE agentapi.budgets (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id uuid REFERENCES public.organizations (id) ON DELETE CASCADE,
    plan text CHECK (plan <> ''),
    scope text NOT NULL CHECK (scope IN ('organization', 'member', 'user', 'agent', 'key')),
    subject text NOT NULL DEFAULT '',
    user_id uuid REFERENCES public.profiles (id) ON DELETE CASCADE,
    key_id uuid REFERENCES agentapi.user_api_keys (id) ON DELETE CASCADE,
    period text NOT NULL CHECK (period IN ('day', 'month', 'total')),
    hard boolean NOT NULL,
    limit_nanos bigint NOT NULL CHECK (limit_nanos BETWEEN 0 AND 1000000000000000000),
    by_operator boolean NOT NULL,
    set_by uuid REFERENCES public.profiles (id) ON DELETE SET NULL,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((org_id IS NULL) = (plan IS NOT NULL)),
    CHECK (plan IS NULL OR by_operator AND scope IN ('organization', 'member')),
    CHECK (CASE scope WHEN 'user' THEN subject = user_id::text AND key_id IS NULL
                      WHEN 'key' THEN subject = key_id::text
                      WHEN 'agent' THEN subject <> '' AND user_id IS NULL AND key_id IS NULL
                      ELSE subject = '' AND user_id IS NULL AND key_id IS NULL END),
    CONSTRAINT agentapi_budgets_kind UNIQUE NULLS NOT DISTINCT (org_id, plan, scope, subject, period, hard, by_operator)
);
CREATE INDEX agentapi_budgets_user ON agentapi.budgets (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX agentapi_budgets_key ON agentapi.budgets (key_id) WHERE key_id IS NOT NULL;

-- What is spent of a budget in a period. A new period is a new row: nothing is ever reset. No foreign keys: several
-- turns that are deleted with their organisation change a row several times, each of which would look for what is gone.
-- org_id, holder  of which organisation, and for whom: the organisation again, or the person of a member's budget
-- starts          the period's first day in UTC; the year 1 of a total
-- spent_nanos     what its turns have cost; of those whose cost nobody knows (`unpriced`), what was reserved
-- reserved_nanos  what its running turns have reserved
-- A period is a row, and where turns would wait for each other several, its slices: what is spent is their sum. A turn
-- counts in the slice in which it has reserved.
-- share_nanos     how much of the limit is this slice's to spend and reserve; together never more than all of it
-- limit_nanos     the limit that it is a share of; where the budget has another one now, the share says nothing
CREATE TABLE agentapi.budget_periods (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    budget_id uuid NOT NULL,
    org_id uuid NOT NULL,
    holder uuid NOT NULL,
    starts date NOT NULL,
    slice smallint NOT NULL DEFAULT 0,
    share_nanos bigint NOT NULL DEFAULT 0,
    limit_nanos bigint NOT NULL DEFAULT 0,
    spent_nanos bigint NOT NULL DEFAULT 0,
    reserved_nanos bigint NOT NULL DEFAULT 0 CHECK (reserved_nanos >= 0),
    unpriced integer NOT NULL DEFAULT 0,
    CONSTRAINT agentapi_budget_periods_of UNIQUE (budget_id, org_id, holder, starts, slice)
) WITH (fillfactor = 50);

-- The turn is its own reservation: there is none without a turn.
-- budget_periods  the slices of periods that it counts in, by their budgets' ids
-- reserved_nanos  what it has reserved in each
ALTER TABLE agentapi.turns ADD COLUMN budget_periods uuid[], ADD COLUMN reserved_nanos bigint;

-- What turns that were deleted while they ran had reserved, until their bill comes after all, or for a day.
CREATE TABLE agentapi.late_reservations (
    turn_id uuid PRIMARY KEY,
    budget_periods uuid[] NOT NULL,
    reserved_nanos bigint NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX agentapi_late_reservations_at ON agentapi.late_reservations (deleted_at);

ALTER TABLE agentapi.budgets ENABLE ROW LEVEL SECURITY;
ALTER TABLE agentapi.budget_periods ENABLE ROW LEVEL SECURITY;
ALTER TABLE agentapi.late_reservations ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON agentapi.budgets, agentapi.budget_periods, agentapi.late_reservations
    FROM PUBLIC, anon, authenticated, service_role;


-- 2. Who sees and sets them.
-- The plans of the caller's organisations. SECURITY DEFINER: it reads their settings, and tells nothing else of them.
CREATE FUNCTION agentapi.own_plans() RETURNS text[] LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS
    $$ SELECT coalesce(array_agg(o.settings ->> 'plan'), '{}') FROM public.organizations o
        WHERE o.id = ANY (agentapi.own_organization_ids()) AND o.settings ->> 'plan' IS NOT NULL $$;

-- Members see what holds for them: their own, and what all share. Nets: the statements name the organisation.
GRANT SELECT ON agentapi.budgets, agentapi.budget_periods TO authenticated;
CREATE POLICY agentapi_own ON agentapi.budgets FOR SELECT TO authenticated
    USING (((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see()))
           AND (org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
                AND (scope IN ('organization', 'member', 'agent') OR user_id = (SELECT auth.uid()))
                OR org_id = ANY ((SELECT agentapi.accounted_organization_ids())::uuid[])
                OR plan = ANY ((SELECT agentapi.own_plans())::text[])));
CREATE POLICY agentapi_own ON agentapi.budget_periods FOR SELECT TO authenticated
    USING (((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see()))
           AND (org_id = ANY ((SELECT agentapi.accounted_organization_ids())::uuid[])
                OR org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
                   AND (holder = org_id OR holder = (SELECT agentapi.own_person()))
                   AND EXISTS (SELECT FROM agentapi.budgets b WHERE b.id = budget_id)));

-- Administrators set those of their organisation; the operator sets any.
GRANT SELECT, INSERT, UPDATE, DELETE ON agentapi.budgets TO agentapi_writer, agentapi_system;
GRANT SELECT ON agentapi.budget_periods TO agentapi_system;
CREATE POLICY agentapi_writer ON agentapi.budgets TO agentapi_writer
    USING (org_id = (SELECT agentapi.bound_organization()) AND org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
           AND NOT by_operator AND (SELECT agentapi.may('organization:edit', '{admin,owner}', 'admin')));
CREATE POLICY agentapi_system ON agentapi.budgets TO agentapi_system USING (true) WITH CHECK (true);
CREATE POLICY agentapi_system ON agentapi.budget_periods FOR SELECT TO agentapi_system USING (true);


-- 3. What a turn reserves.
CREATE FUNCTION agentapi.period_start(p_period text, p_at timestamptz) RETURNS date LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT CASE p_period WHEN 'day' THEN (p_at AT TIME ZONE 'UTC')::date
                            WHEN 'month' THEN date_trunc('month', p_at AT TIME ZONE 'UTC')::date
                            ELSE date '0001-01-01' END $$;
-- When the next period begins; never after a total.
CREATE FUNCTION agentapi.period_end(p_period text, p_starts date) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT CASE p_period WHEN 'day' THEN to_char(p_starts + 1, 'YYYY-MM-DD"T00:00:00Z"')
                            WHEN 'month' THEN to_char(p_starts + interval '1 month', 'YYYY-MM-DD"T00:00:00Z"') END $$;
CREATE FUNCTION agentapi.dollars(nanos bigint) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT trim_scale(nanos::numeric * 0.000000001)::text $$;

-- What a turn is expected to cost at most, null where that is not known. The claim agentapi_reserve has
-- rates   [above, input_price, output_nanos] by ascending `above`: with more input tokens than that, a million of them
--         cost `input_price` US dollars, and its longest answer `output_nanos`
-- lender  the agent whose model answers in the name of the turn's, and whose budgets count as well
-- bytes   of its instructions and its message; `history_bytes` is how much may stand before them
-- A token is four bytes, as where the history is cut; of a long session the newest thousand messages are looked at.
CREATE FUNCTION agentapi.estimated_nanos(p_reserve jsonb, p_session uuid, p_message uuid) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_rates CONSTANT jsonb := coalesce(p_reserve -> 'rates', '[]');
    v_bytes numeric := p_reserve ->> 'bytes';
    v_tokens numeric;
    v_price numeric;
    v_output numeric;
    v_tier jsonb;
BEGIN
    -- The history is looked at where anything depends on it.
    IF p_session IS NOT NULL AND (jsonb_array_length(v_rates) > 1 OR (v_rates -> 0 ->> 1)::numeric > 0) THEN
        v_bytes := v_bytes + least((p_reserve ->> 'history_bytes')::numeric, (
            SELECT coalesce(sum(octet_length(m.content)), 0) FROM (
                SELECT c.content FROM public.chat_messages c WHERE c.session_id = p_session AND c.id IS DISTINCT FROM p_message
                 ORDER BY c.created_at DESC, c.id DESC LIMIT 1000) AS m));
    END IF;
    v_tokens := ceil(v_bytes / 4);
    FOR v_tier IN SELECT * FROM jsonb_array_elements(v_rates) LOOP
        IF (v_tier ->> 0)::numeric <= 0 OR v_tokens > (v_tier ->> 0)::numeric THEN
            v_price := v_tier ->> 1;
            v_output := v_tier ->> 2;
        END IF;
    END LOOP;
    -- Null where either is unknown.
    RETURN CASE WHEN v_price IS NOT NULL AND v_output IS NOT NULL
                THEN least(ceil(v_tokens * v_price * 1000) + v_output, 1000000000000000)::bigint END;
END
$function$;
-- What is reserved for it: without an estimate, the amount that is set, and ten cents where a program of before sets none.
CREATE FUNCTION agentapi.amount_to_reserve(p_reserve jsonb, p_estimate bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
    $$ SELECT coalesce(p_estimate, (p_reserve ->> 'unpriced_nanos')::bigint, 100000000) $$;

-- The periods go with their budget.
CREATE FUNCTION agentapi.remove_periods() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    -- Slices in their order, as everywhere: no deadlock.
    PERFORM FROM agentapi.budget_periods p WHERE p.budget_id = OLD.id ORDER BY p.org_id, p.holder, p.starts, p.slice
        FOR UPDATE;
    DELETE FROM agentapi.budget_periods p WHERE p.budget_id = OLD.id;
    RETURN NULL;
END
$function$;
CREATE TRIGGER remove_periods AFTER DELETE ON agentapi.budgets FOR EACH ROW EXECUTE FUNCTION agentapi.remove_periods();

-- The budgets of a turn, in the order in which their periods are locked.
CREATE FUNCTION agentapi.budgets_of(p_org uuid, p_user uuid, p_agents text[], p_key uuid) RETURNS SETOF agentapi.budgets
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    RETURN QUERY
    SELECT b.* FROM (VALUES ('organization', ''), ('member', ''), ('user', p_user::text), ('key', p_key::text)
                      UNION SELECT 'agent', unnest(p_agents)) AS s (scope, subject)
      JOIN agentapi.budgets b ON b.org_id = p_org AND b.plan IS NULL AND b.scope = s.scope AND b.subject = s.subject
     UNION ALL
    SELECT b.* FROM agentapi.budgets b
     WHERE b.org_id IS NULL AND b.plan = (SELECT o.settings ->> 'plan' FROM public.organizations o WHERE o.id = p_org)
     ORDER BY id;
END
$function$;

-- What is spent and reserved in all slices of a period.
CREATE FUNCTION agentapi.used_nanos(p_budget uuid, p_org uuid, p_holder uuid, p_starts date) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    RETURN (SELECT coalesce(sum(o.spent_nanos + o.reserved_nanos), 0) FROM agentapi.budget_periods o
             WHERE o.budget_id = p_budget AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts);
END
$function$;

-- What there is to know of a budget's period, for answers and refusals.
CREATE FUNCTION agentapi.budget_state(b agentapi.budgets, p_starts date, p_left bigint) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS
    $$ SELECT jsonb_build_object('scope', b.scope, 'subject', b.subject, 'plan', b.plan, 'period', b.period, 'hard', b.hard,
                                 'limit_usd', agentapi.dollars(b.limit_nanos), 'left_usd', agentapi.dollars(p_left),
                                 'renews_at', agentapi.period_end(b.period, p_starts), 'by_operator', b.by_operator) $$;
-- Which of two states is told: that of a budget that `refuses`, else of the one of which less is left. A soft one that is
-- used up yields to any other, which has it as `exceeded`: what is left of a hard one says when turns will be refused.
CREATE FUNCTION agentapi.tighter_budget(p_told jsonb, p_next jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_told_left CONSTANT numeric := p_told ->> 'left_usd';
    v_next_left CONSTANT numeric := p_next ->> 'left_usd';
    v_is_told_over CONSTANT boolean := v_told_left <= 0 AND NOT (p_told ->> 'hard')::boolean;
    v_is_next_over CONSTANT boolean := v_next_left <= 0 AND NOT (p_next ->> 'hard')::boolean;
BEGIN
    IF p_told IS NULL OR v_is_told_over AND v_is_next_over AND v_next_left < v_told_left THEN
        RETURN p_next;
    ELSIF v_is_told_over AND v_is_next_over THEN
        RETURN p_told;
    ELSIF v_is_next_over THEN
        RETURN p_told || jsonb_build_object('exceeded', agentapi.tighter_budget(p_told -> 'exceeded', p_next));
    ELSIF v_is_told_over THEN
        RETURN p_next || jsonb_build_object('exceeded', p_told);
    ELSIF coalesce((p_next ->> 'refuses')::boolean, false) <> coalesce((p_told ->> 'refuses')::boolean, false) THEN
        RETURN CASE WHEN (p_next ->> 'refuses')::boolean THEN p_told || p_next ELSE p_told END;
    END IF;
    RETURN CASE WHEN v_next_left < v_told_left THEN p_told || p_next ELSE p_told END;
END
$function$;

-- A slice that no other transaction has locked, with room for an amount, which is locked from here on; null where there
-- is none. What a turn has cost beyond its slice is not in the other slices' shares yet: so none of them has room then.
CREATE FUNCTION agentapi.free_slice(b agentapi.budgets, p_org uuid, p_holder uuid, p_starts date, p_nanos bigint)
    RETURNS agentapi.budget_periods LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    p agentapi.budget_periods;
BEGIN
    IF NOT b.hard OR p_nanos = 0 THEN
        -- What costs nothing exceeds nothing.
        SELECT * INTO p FROM agentapi.budget_periods o
         WHERE o.budget_id = b.id AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts
         ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED;
        RETURN p;
    END IF;
    SELECT * INTO p FROM agentapi.budget_periods o
     WHERE o.budget_id = b.id AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts
       AND o.limit_nanos = b.limit_nanos AND p_nanos <= o.share_nanos - o.spent_nanos - o.reserved_nanos
       AND NOT EXISTS (SELECT FROM agentapi.budget_periods d
                        WHERE d.budget_id = b.id AND d.org_id = p_org AND d.holder = p_holder AND d.starts = p_starts
                          AND d.spent_nanos + d.reserved_nanos > d.share_nanos)
     ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED;
    RETURN p;
END
$function$;

-- A slice with room for an amount, after a wait for others; null where the budget has been removed. Who finds room that
-- is locked divides it, so that the next ones need not wait. Where none has room, all of what is left is divided anew,
-- and where that is too little the turn is refused. Whoever comes here locks the slices in their order.
CREATE FUNCTION agentapi.awaited_slice(b agentapi.budgets, p_org uuid, p_holder uuid, p_starts date, p_nanos bigint)
    RETURNS agentapi.budget_periods LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    c_slices CONSTANT integer := 8;
    -- A slice is made where as many such turns have room in it.
    c_turns CONSTANT integer := 10;
    v_reserved bigint;
    v_left bigint;
    v_slices integer;
    v_is_new boolean;
    p agentapi.budget_periods;
BEGIN
    SELECT * INTO p FROM agentapi.budget_periods o
     WHERE o.budget_id = b.id AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts AND o.slice = 0
       FOR UPDATE;
    v_is_new := NOT FOUND;
    IF v_is_new THEN
        -- A budget that is being removed is waited for, and does not hold any more.
        INSERT INTO agentapi.budget_periods (budget_id, org_id, holder, starts, share_nanos, limit_nanos)
        SELECT k.id, p_org, p_holder, p_starts, k.limit_nanos, k.limit_nanos FROM agentapi.budgets k WHERE k.id = b.id
           FOR KEY SHARE ON CONFLICT DO NOTHING;
        SELECT * INTO p FROM agentapi.budget_periods o
         WHERE o.budget_id = b.id AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts AND o.slice = 0
           FOR UPDATE;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    -- The limit may have changed meanwhile.
    SELECT * INTO b FROM agentapi.budgets k WHERE k.id = b.id;
    p := agentapi.free_slice(b, p_org, p_holder, p_starts, p_nanos);
    IF p.id IS NOT NULL THEN
        v_slices := (SELECT count(*) FROM agentapi.budget_periods o
                      WHERE o.budget_id = b.id AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts);
        v_left := CASE WHEN b.hard THEN greatest(p.share_nanos - p.spent_nanos - p.reserved_nanos, 0) / 2 ELSE 0 END;
        IF NOT v_is_new AND v_slices < c_slices AND (NOT b.hard OR v_left > c_turns * p_nanos) THEN
            UPDATE agentapi.budget_periods o SET share_nanos = o.share_nanos - v_left WHERE o.id = p.id;
            INSERT INTO agentapi.budget_periods (budget_id, org_id, holder, starts, slice, share_nanos, limit_nanos)
            VALUES (b.id, p_org, p_holder, p_starts, v_slices, v_left, p.limit_nanos);
        END IF;
        RETURN p;
    END IF;

    PERFORM FROM agentapi.budget_periods o
      WHERE o.budget_id = b.id AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts
      ORDER BY o.slice FOR UPDATE;
    SELECT b.limit_nanos - sum(o.spent_nanos + o.reserved_nanos), sum(o.reserved_nanos), count(*)
      INTO v_left, v_reserved, v_slices FROM agentapi.budget_periods o
     WHERE o.budget_id = b.id AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts;
    IF p_nanos > v_left THEN
        RAISE EXCEPTION USING ERRCODE = 'AA004', MESSAGE = (
            agentapi.budget_state(b, p_starts, v_left)
            || jsonb_build_object('needed_usd', agentapi.dollars(p_nanos),
                                  'running_usd', agentapi.dollars(v_reserved)))::text;
    END IF;
    -- Little is left together, so that there is room for as long as there is enough.
    UPDATE agentapi.budget_periods o
       SET limit_nanos = b.limit_nanos,
           share_nanos = o.spent_nanos + o.reserved_nanos + CASE
               WHEN v_left / v_slices < c_turns * p_nanos THEN CASE o.slice WHEN 0 THEN v_left ELSE 0 END
               ELSE v_left / v_slices + CASE o.slice WHEN 0 THEN v_left % v_slices ELSE 0 END END
     WHERE o.budget_id = b.id AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts;
    SELECT * INTO p FROM agentapi.budget_periods o
     WHERE o.budget_id = b.id AND o.org_id = p_org AND o.holder = p_holder AND o.starts = p_starts AND o.slice = 0;
    RETURN p;
END
$function$;

-- Reserves what a turn may cost in each of its budgets, or refuses it, as SQLSTATE AA004 with a JSON object: by which
-- budget, or `most_usd`, which its caller set. As with shares, it is refused here, where it is known that no other turn
-- answers its message. SECURITY DEFINER: nobody else has a right to write there.
CREATE FUNCTION agentapi.reserve_budgets() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_reserve CONSTANT jsonb := coalesce(
        nullif(current_setting('request.jwt.claims', true), '')::jsonb -> 'agentapi_reserve', '{}');
    v_most CONSTANT bigint := v_reserve ->> 'most_nanos';
    v_now CONSTANT timestamptz := clock_timestamp();
    v_is_estimated boolean := false;
    v_estimate bigint;
    v_person uuid;
    v_holder uuid;
    v_starts date;
    b agentapi.budgets;
    p agentapi.budget_periods;
BEGIN
    NEW.budget_periods := NULL;
    NEW.reserved_nanos := NULL;
    IF v_most IS NOT NULL THEN
        v_estimate := agentapi.estimated_nanos(v_reserve, NEW.session_id, NEW.user_message_id);
        v_is_estimated := true;
        IF v_estimate IS NULL OR v_estimate > v_most THEN
            RAISE EXCEPTION USING ERRCODE = 'AA004', MESSAGE = jsonb_build_object(
                'most_usd', agentapi.dollars(v_most), 'needed_usd', agentapi.dollars(v_estimate))::text;
        END IF;
    END IF;
    FOR b IN SELECT * FROM agentapi.budgets_of(
        NEW.org_id, NEW.user_id, ARRAY[NEW.agent_name, v_reserve ->> 'lender'], NEW.paid_key) LOOP
        IF NEW.budget_periods IS NULL THEN
            IF NOT v_is_estimated THEN
                v_estimate := agentapi.estimated_nanos(v_reserve, NEW.session_id, NEW.user_message_id);
            END IF;
            NEW.reserved_nanos := agentapi.amount_to_reserve(v_reserve, v_estimate);
            NEW.budget_periods := '{}';
            -- Before the periods are locked, so that who makes the person waits for none of them.
            v_person := agentapi.person_of(NEW.user_id);
        END IF;
        v_holder := CASE b.scope WHEN 'member' THEN v_person ELSE NEW.org_id END;
        v_starts := agentapi.period_start(b.period, v_now);
        p := agentapi.free_slice(b, NEW.org_id, v_holder, v_starts, NEW.reserved_nanos);
        IF p.id IS NULL THEN
            p := agentapi.awaited_slice(b, NEW.org_id, v_holder, v_starts, NEW.reserved_nanos);
            CONTINUE WHEN p.id IS NULL;
        END IF;
        UPDATE agentapi.budget_periods o SET reserved_nanos = o.reserved_nanos + NEW.reserved_nanos WHERE o.id = p.id;
        NEW.budget_periods := NEW.budget_periods || p.id;
    END LOOP;
    RETURN NEW;
END
$function$;
-- By its name after note_payment, which says with which key.
CREATE TRIGGER reserve_budgets BEFORE INSERT ON agentapi.turns FOR EACH ROW EXECUTE FUNCTION agentapi.reserve_budgets();


-- 4. What a turn has spent.
-- As its entry in the ledger has it (entry_of): what was never asked has cost nothing, and unknown is null.
CREATE FUNCTION agentapi.known_nanos(t agentapi.turns) RETURNS bigint LANGUAGE sql IMMUTABLE AS
    $$ SELECT CASE WHEN t.asked_at IS NULL AND t.cost_usd IS NULL THEN 0 ELSE agentapi.nanos(t.cost_usd) END $$;

-- Changes the sums of slices, one after the other in the order of their budgets' ids, as everywhere, and returns the state
-- of the tightest budget. A transaction that settles several turns, `p_whole`, has all slices of a period from the first
-- on, in their order.
CREATE FUNCTION agentapi.settle_periods(p_periods uuid[], p_spent bigint, p_released bigint, p_unpriced integer,
    p_whole boolean) RETURNS jsonb LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_id uuid;
    v_tightest jsonb;
    v_left bigint;
    p agentapi.budget_periods;
    b agentapi.budgets;
BEGIN
    FOREACH v_id IN ARRAY p_periods LOOP
        IF p_whole THEN
            SELECT * INTO p FROM agentapi.budget_periods o WHERE o.id = v_id;
            PERFORM FROM agentapi.budget_periods o
              WHERE o.budget_id = p.budget_id AND o.org_id = p.org_id AND o.holder = p.holder AND o.starts = p.starts
                AND o.slice = 0 FOR UPDATE;
            PERFORM FROM agentapi.budget_periods o
              WHERE o.budget_id = p.budget_id AND o.org_id = p.org_id AND o.holder = p.holder AND o.starts = p.starts
              ORDER BY o.slice FOR UPDATE;
        END IF;
        UPDATE agentapi.budget_periods o
           SET spent_nanos = o.spent_nanos + p_spent, reserved_nanos = o.reserved_nanos - p_released,
               unpriced = o.unpriced + p_unpriced
         WHERE o.id = v_id RETURNING o.* INTO p;
        -- Removed meanwhile, with its user or by whoever set it.
        CONTINUE WHEN NOT FOUND;
        SELECT * INTO b FROM agentapi.budgets k WHERE k.id = p.budget_id;
        v_left := b.limit_nanos - agentapi.used_nanos(b.id, p.org_id, p.holder, p.starts);
        v_tightest := agentapi.tighter_budget(v_tightest, agentapi.budget_state(b, p.starts, v_left));
    END LOOP;
    RETURN v_tightest;
END
$function$;

-- Settles a turn that ends or is deleted while it runs, and what a later bill says differently; the turn keeps what was
-- left of the tightest budget. Where nobody knows the cost, what was reserved counts until it is known.
CREATE FUNCTION agentapi.settle_budgets() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_was CONSTANT bigint := agentapi.known_nanos(OLD);
    v_is bigint;
    v_tightest jsonb;
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM agentapi.settle_periods(OLD.budget_periods, coalesce(v_was, OLD.reserved_nanos), OLD.reserved_nanos,
                                        (v_was IS NULL)::integer, true);
        IF v_was IS NULL THEN
            DELETE FROM agentapi.late_reservations r WHERE r.turn_id IN (
                SELECT o.turn_id FROM agentapi.late_reservations o WHERE o.deleted_at < clock_timestamp() - interval '1 day'
                   FOR UPDATE SKIP LOCKED LIMIT 100);
            INSERT INTO agentapi.late_reservations (turn_id, budget_periods, reserved_nanos)
            VALUES (OLD.id, OLD.budget_periods, OLD.reserved_nanos) ON CONFLICT DO NOTHING;
        END IF;
        RETURN NULL;
    END IF;
    v_is := agentapi.known_nanos(NEW);
    IF OLD.status IN ('running', 'input_required') THEN
        v_tightest := agentapi.settle_periods(OLD.budget_periods, coalesce(v_is, OLD.reserved_nanos), OLD.reserved_nanos,
                                              (v_is IS NULL)::integer, false);
    ELSE
        v_tightest := agentapi.settle_periods(
            OLD.budget_periods, coalesce(v_is, OLD.reserved_nanos) - coalesce(v_was, OLD.reserved_nanos), 0,
            (v_is IS NULL)::integer - (v_was IS NULL)::integer, false);
    END IF;
    NEW.cost_details := NEW.cost_details || jsonb_build_object('budget', v_tightest);
    RETURN NEW;
END
$function$;
-- Before the sums of the day in all of them, by when they run and by their names.
CREATE TRIGGER settle_budgets BEFORE UPDATE ON agentapi.turns FOR EACH ROW
    WHEN (OLD.budget_periods <> '{}'
          AND (OLD.status IN ('running', 'input_required') AND NEW.status NOT IN ('running', 'input_required')
               OR OLD.status NOT IN ('running', 'input_required') AND OLD.cost_usd IS DISTINCT FROM NEW.cost_usd))
    EXECUTE FUNCTION agentapi.settle_budgets();
CREATE TRIGGER account_deleted_budgets AFTER DELETE ON agentapi.turns FOR EACH ROW
    WHEN (OLD.budget_periods <> '{}' AND OLD.status IN ('running', 'input_required'))
    EXECUTE FUNCTION agentapi.settle_budgets();

-- With their user, turns of several agents are deleted, whose budgets differ: before the first of them is, all of what they
-- hold is locked in the order of whoever ends one of them, the turns first. Else both could wait for each other, as with
-- several users or conversations that one statement of another program deletes: there one of the two is told to try again.
CREATE FUNCTION agentapi.lock_budgets() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    IF NOT EXISTS (SELECT FROM public.profiles p WHERE p.id = OLD.user_id) THEN
        PERFORM FROM agentapi.turns t WHERE t.user_id = OLD.user_id AND t.status IN ('running', 'input_required')
          ORDER BY t.id FOR UPDATE;
        PERFORM FROM agentapi.budget_periods o
          WHERE (o.budget_id, o.org_id, o.holder, o.starts) IN (
                    SELECT p.budget_id, p.org_id, p.holder, p.starts
                      FROM agentapi.turns t JOIN agentapi.budget_periods p ON p.id = ANY (t.budget_periods)
                     WHERE t.user_id = OLD.user_id AND t.status IN ('running', 'input_required'))
          ORDER BY o.budget_id, o.org_id, o.holder, o.starts, o.slice FOR UPDATE;
    END IF;
    RETURN OLD;
END
$function$;
CREATE TRIGGER lock_budgets BEFORE DELETE ON agentapi.turns FOR EACH ROW
    WHEN (OLD.budget_periods <> '{}' AND OLD.status IN ('running', 'input_required'))
    EXECUTE FUNCTION agentapi.lock_budgets();

-- The late bill of a turn that was deleted while it ran, which corrects its entry.
CREATE FUNCTION agentapi.settle_late_bill() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    r agentapi.late_reservations;
BEGIN
    DELETE FROM agentapi.late_reservations o WHERE o.turn_id = NEW.turn_id RETURNING * INTO r;
    IF FOUND THEN
        PERFORM agentapi.settle_periods(r.budget_periods, NEW.cost_nanos - r.reserved_nanos, 0, -1, false);
    END IF;
    RETURN NULL;
END
$function$;
CREATE TRIGGER settle_late_bill AFTER INSERT ON agentapi.ledger FOR EACH ROW
    WHEN (NEW.kind = 'correction' AND NEW.outcome = 'deleted' AND NEW.unpriced = -1)
    EXECUTE FUNCTION agentapi.settle_late_bill();

-- Ends a turn as end_turn_1 does, whose parameters and answers it has, and says what is left of its tightest budget.
CREATE FUNCTION agentapi.end_turn_2(p_claims text, p_end jsonb, p_reply text, p_cost jsonb, OUT outcome text,
    OUT ended timestamptz, OUT cancel_requested timestamptz, OUT reply_message uuid, OUT budget text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    SELECT e.outcome, e.ended, e.cancel_requested, e.reply_message INTO outcome, ended, cancel_requested, reply_message
      FROM agentapi.end_turn_1(p_claims, p_end, p_reply, p_cost) AS e;
    IF outcome = 'ended' THEN
        SELECT t.cost_details ->> 'budget' INTO budget FROM agentapi.turns t WHERE t.id = (p_end ->> 'id')::uuid;
    END IF;
END
$function$;
ALTER FUNCTION agentapi.end_turn_2(text, jsonb, text, jsonb) SET plan_cache_mode = 'force_generic_plan';

-- What a turn would cost at most and reserve, and the state of the budget that would refuse it, else of the tightest; for
-- the principal in `p_claims`, whose claim agentapi_reserve has what a turn's has. Nothing is written.
CREATE FUNCTION agentapi.estimate_turn_1(p_claims text, p_session uuid, p_agent text, p_key uuid, OUT session_found boolean,
    OUT estimate_nanos bigint, OUT reserve_nanos bigint, OUT budget text, OUT refused boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_user CONSTANT uuid := p_claims::jsonb ->> 'sub';
    v_org CONSTANT uuid := p_claims::jsonb ->> 'agentapi_org';
    r record;
BEGIN
    PERFORM set_config('request.jwt.claims', p_claims, true), set_config('role', 'agentapi_writer', true);
    session_found := p_session IS NULL OR EXISTS (
        SELECT FROM public.chat_sessions s WHERE s.id = p_session AND s.user_id = v_user AND s.org_id = v_org);
    IF NOT session_found OR NOT agentapi.may_chat() OR v_org <> ALL (agentapi.own_organization_ids()) THEN
        session_found := false;
        RETURN;
    END IF;
    SELECT * INTO r FROM agentapi.expected_costs(
        p_claims::jsonb -> 'agentapi_reserve', p_session, v_org, v_user, p_agent, p_key);
    estimate_nanos := r.estimate_nanos;
    reserve_nanos := r.reserve_nanos;
    budget := r.budget;
    refused := r.refused;
END
$function$;
-- SECURITY DEFINER: it reads sums of budgets that the caller need not see, and returns one of theirs.
CREATE FUNCTION agentapi.expected_costs(p_reserve jsonb, p_session uuid, p_org uuid, p_user uuid, p_agent text, p_key uuid,
    OUT estimate_nanos bigint, OUT reserve_nanos bigint, OUT budget text, OUT refused boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_person CONSTANT uuid := (SELECT p.person FROM agentapi.people p WHERE p.user_id = p_user);
    v_starts date;
    v_left bigint;
    v_refuses boolean;
    v_told jsonb;
    b agentapi.budgets;
BEGIN
    estimate_nanos := agentapi.estimated_nanos(p_reserve, p_session, NULL);
    reserve_nanos := agentapi.amount_to_reserve(p_reserve, estimate_nanos);
    refused := false;
    FOR b IN SELECT * FROM agentapi.budgets_of(
        p_org, p_user, ARRAY[p_agent, p_reserve ->> 'lender'], p_key) LOOP
        v_starts := agentapi.period_start(b.period, clock_timestamp());
        v_left := b.limit_nanos - agentapi.used_nanos(
            b.id, p_org, CASE b.scope WHEN 'member' THEN v_person ELSE p_org END, v_starts);
        v_refuses := b.hard AND reserve_nanos > 0 AND reserve_nanos > v_left;
        v_told := agentapi.tighter_budget(
            v_told, agentapi.budget_state(b, v_starts, v_left) || jsonb_build_object('refuses', v_refuses));
        refused := refused OR v_refuses;
    END LOOP;
    budget := v_told;
END
$function$;

REVOKE ALL ON FUNCTION agentapi.own_plans(), agentapi.period_start(text, timestamptz), agentapi.period_end(text, date),
    agentapi.dollars(bigint), agentapi.estimated_nanos(jsonb, uuid, uuid), agentapi.amount_to_reserve(jsonb, bigint),
    agentapi.budgets_of(uuid, uuid, text[], uuid), agentapi.budget_state(agentapi.budgets, date, bigint),
    agentapi.tighter_budget(jsonb, jsonb),
    agentapi.used_nanos(uuid, uuid, uuid, date), agentapi.remove_periods(),
    agentapi.free_slice(agentapi.budgets, uuid, uuid, date, bigint),
    agentapi.awaited_slice(agentapi.budgets, uuid, uuid, date, bigint), agentapi.reserve_budgets(),
    agentapi.known_nanos(agentapi.turns), agentapi.settle_periods(uuid[], bigint, bigint, integer, boolean),
    agentapi.settle_budgets(), agentapi.lock_budgets(), agentapi.settle_late_bill(),
    agentapi.end_turn_2(text, jsonb, text, jsonb), agentapi.estimate_turn_1(text, uuid, text, uuid),
    agentapi.expected_costs(jsonb, uuid, uuid, uuid, text, uuid) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.own_plans() TO authenticated;
GRANT EXECUTE ON FUNCTION agentapi.period_start(text, timestamptz), agentapi.period_end(text, date)
    TO authenticated, agentapi_system;
GRANT EXECUTE ON FUNCTION agentapi.expected_costs(jsonb, uuid, uuid, uuid, text, uuid) TO agentapi_writer;
