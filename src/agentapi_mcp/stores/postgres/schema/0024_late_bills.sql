-- needs: 0.1.0
-- What other programs write past the checks of ours, and bills that come late, twice, or after their person is gone.

-- 1. What happened elsewhere is counted under its session's id, which other programs choose: it must be no id under which
-- something is counted already. Ratings would go to that entry, whosever it is.
CREATE FUNCTION agentapi.check_report_id() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    -- A turn that runs has no entry yet.
    IF EXISTS (SELECT FROM agentapi.turns t WHERE t.id = NEW.session_id)
       OR EXISTS (SELECT FROM agentapi.ledger l WHERE l.turn_id = NEW.session_id) THEN
        RAISE unique_violation USING MESSAGE = 'id: this one is taken; leave it out, and one is made';
    END IF;
    RETURN NEW;
END
$function$;
REVOKE ALL ON FUNCTION agentapi.check_report_id() FROM PUBLIC, anon, authenticated, service_role;
CREATE TRIGGER check_report_id BEFORE INSERT ON agentapi.session_facts FOR EACH ROW
    WHEN (NEW.recorded_at IS NOT NULL) EXECUTE FUNCTION agentapi.check_report_id();


-- 2. Keeps what a user says of a session, as before, and nothing that write_interaction does not: other programs may call it.
CREATE OR REPLACE FUNCTION agentapi.say_of_interaction(i agentapi.ai_interactions, p_recorded boolean, p_actions text[])
    RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    c_actions CONSTANT text[] := ARRAY['interaction_recorded', 'rated', 'session_archived', 'session_deleted',
        'session_renamed', 'session_tagged'];
    v_said agentapi.ai_interactions := i;
    v_org uuid;
    v_limit jsonb;
BEGIN
    SELECT s.org_id INTO v_org FROM public.chat_sessions s WHERE s.id = i.id AND s.user_id = auth.uid() FOR UPDATE;
    IF pg_trigger_depth() = 0 OR v_org IS NULL OR NOT agentapi.has_right_in(
            v_org, CASE WHEN p_recorded THEN 'sessions:chat' ELSE 'sessions:edit' END) THEN
        RAISE insufficient_privilege USING MESSAGE = 'you may not change this interaction: for that you must be an active '
            'member, and no viewer, of its organisation';
    END IF;
    -- Anybody has triggers, on temporary tables. The times that were left out are there now, whatever it lasted.
    v_said.duration_minutes := NULL;
    IF NOT p_actions <@ c_actions OR p_recorded AND (agentapi.fault_of(v_said) IS NOT NULL
           OR EXISTS (SELECT FROM agentapi.turns t WHERE t.session_id = i.id)) THEN
        RAISE insufficient_privilege USING MESSAGE = 'an interaction is written by way of the view ai_interactions';
    END IF;
    IF p_recorded THEN
        INSERT INTO agentapi.session_facts (session_id, user_id, org_id, status, interaction_type, description, tags,
            keywords, rating, usefulness, note, external_link, external_id, external_metadata, content_preview, model,
            provider, reported_input_tokens, reported_output_tokens, reported_cost_usd, ended_at, recorded_at)
        VALUES (i.id, auth.uid(), v_org, i.status, i.interaction_type_id, i.description, i.tags, i.keywords,
            i.satisfaction_rating, i.usefulness_rating, i.feedback_notes, i.external_link, i.external_id,
            i.external_metadata, i.content_preview, i.model_name, i.vendor_id, i.input_tokens, i.output_tokens,
            i.total_cost, i.ended_at, clock_timestamp())
        ON CONFLICT (user_id, org_id, coalesce(external_id, external_link))
              WHERE recorded_at IS NOT NULL AND coalesce(external_id, external_link) IS NOT NULL DO NOTHING;
        IF NOT FOUND THEN
            RAISE unique_violation USING MESSAGE = 'this external_id, or without one this external_link, is recorded already';
        END IF;
    ELSIF p_actions && '{rated,session_tagged,session_archived}' THEN
        INSERT INTO agentapi.session_facts AS f (session_id, user_id, org_id, status, interaction_type, description, tags,
            keywords, rating, usefulness, note)
        VALUES (i.id, auth.uid(), v_org, i.status, i.interaction_type_id, i.description, i.tags, i.keywords,
            i.satisfaction_rating, i.usefulness_rating, i.feedback_notes)
        ON CONFLICT (session_id) DO UPDATE
           SET status = excluded.status, interaction_type = excluded.interaction_type, description = excluded.description,
               tags = excluded.tags, keywords = excluded.keywords, rating = excluded.rating,
               usefulness = excluded.usefulness, note = excluded.note, updated_at = clock_timestamp();
    END IF;
    INSERT INTO agentapi.audit_events (id, at, org_id, user_id, via, action, target_kind, target_id, outcome)
    SELECT gen_random_uuid(), clock_timestamp(), v_org, auth.uid(), 'sql', a, 'session', i.id::text, 'ok'
      FROM (SELECT DISTINCT unnest(p_actions)) AS u (a);
    INSERT INTO agentapi.signals (sender, signal) VALUES (gen_random_uuid(), jsonb_build_object(
        'kind', 'sessions_changed', 'session_id', i.id, 'user_id', auth.uid(), 'org_id', v_org)::text);
    PERFORM pg_notify(f.value, '') FROM agentapi.facts f WHERE f.name = 'signal_channel';
EXCEPTION WHEN SQLSTATE 'AA003' THEN
    v_limit := SQLERRM;
    RAISE EXCEPTION USING ERRCODE = 'AA003', MESSAGE = format('the %s has %s of at most %s %s: delete some first',
        v_limit ->> 'whose', v_limit ->> 'used', v_limit ->> 'most',
        CASE v_limit ->> 'what' WHEN 'recorded' THEN 'recorded interactions' ELSE v_limit ->> 'what' END);
END
$function$;


-- 3. Corrects the entry of a turn that was deleted while it ran, as before, and once also where the bill comes a second time
-- while it is written.
CREATE OR REPLACE FUNCTION agentapi.bill_deleted(p_turn uuid, p_bill agentapi.turns) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_old agentapi.ledger;
    v_new agentapi.ledger;
BEGIN
    -- Who repeats it, since no answer came, waits here for the first, and looks for its correction by another statement,
    -- which sees what was committed meanwhile.
    SELECT * INTO v_old FROM agentapi.ledger l
     WHERE l.turn_id = p_turn AND l.outcome = 'deleted' AND l.kind = 'turn'
       AND l.at > clock_timestamp() - interval '1 day' FOR UPDATE;
    IF NOT FOUND OR EXISTS (SELECT FROM agentapi.ledger c
                             WHERE c.turn_id = p_turn AND c.at = v_old.at AND c.kind = 'correction') THEN
        RETURN;
    END IF;
    -- Not another's, unless nobody knows any more whose it was.
    IF v_old.org_id = agentapi.bound_organization() AND NOT EXISTS (
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


-- 4. Enters a turn that ends, as before, and corrects it for the person that its entry has.
CREATE OR REPLACE FUNCTION agentapi.account_turn() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    e agentapi.ledger;
    v_kind text;
    v_person uuid;
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
        -- Of the kind as which the turn was counted, whatever its session has become since, and of the same person, also
        -- where nobody knows any more who that was.
        SELECT l.interaction_type, l.person INTO v_kind, v_person FROM agentapi.ledger l
         WHERE l.turn_id = OLD.id AND l.at = OLD.ended_at AND l.kind = 'turn' LIMIT 1;
        e.interaction_type := v_kind;
        e.person := coalesce(v_person, e.person);
        PERFORM agentapi.enter(e);
    END IF;
    RETURN NULL;
END
$function$;
