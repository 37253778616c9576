-- needs: 0.1.0
-- Bills that come late, and twice, or after their person is gone.

-- Corrects the entry of a turn that was deleted while it ran, as before, and once also where the bill comes a second time
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


-- Enters a turn that ends, as before, and corrects it for the person that its entry has.
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
