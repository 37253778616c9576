-- needs: 0.1.0
-- What happened elsewhere is counted under its session's id, which other programs choose: it must be no id under which
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
