-- needs: 0.1.0
-- What a holder has of a resource is counted by statements whose plans are kept: as one statement of SQL, which has the
-- resource as a parameter, it was planned anew for each turn, a twentieth of the database's time.
CREATE OR REPLACE FUNCTION agentapi.share_used(p_holder uuid, p_resource text) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    CASE p_resource
        WHEN 'user running_turns' THEN
            RETURN (SELECT count(*) FROM agentapi.turns t
                WHERE t.user_id = p_holder AND t.status IN ('running', 'input_required'));
        WHEN 'user running_bytes' THEN
            RETURN (SELECT coalesce(sum(t.message_bytes), 0) FROM agentapi.turns t
                WHERE t.user_id = p_holder AND t.status IN ('running', 'input_required'));
        WHEN 'organization running_turns' THEN
            RETURN (SELECT count(*) FROM agentapi.turns t
                WHERE t.org_id = p_holder AND t.status IN ('running', 'input_required'));
        WHEN 'organization running_bytes' THEN
            RETURN (SELECT coalesce(sum(t.message_bytes), 0) FROM agentapi.turns t
                WHERE t.org_id = p_holder AND t.status IN ('running', 'input_required'));
        WHEN 'organization conversations' THEN
            RETURN (SELECT count(*) FROM public.chat_sessions s WHERE s.org_id = p_holder);
        ELSE
            RETURN NULL;
    END CASE;
END
$function$;

-- Each of their statements finds its rows by an id or a key, whatever that is, so that no plan fits one better.
ALTER FUNCTION agentapi.begin_turn_2(text, jsonb, jsonb, text) SET plan_cache_mode = 'force_generic_plan';
ALTER FUNCTION agentapi.end_turn_1(text, jsonb, text, jsonb) SET plan_cache_mode = 'force_generic_plan';
