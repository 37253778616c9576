-- needs: 0.1.0
-- The limits of an organisation, settings.limits: its administrators see them, and the operator sets them by a command.

-- In a database that had this table before, the program has a right to single columns only.
GRANT UPDATE (settings) ON public.organizations TO agentapi_system;

-- Each limit of the bound organisation as check_shares understands it, and how much it counts, for administrators. A
-- limit that is not `readable` is no number, and bounds nothing. SECURITY DEFINER: it counts every member's rows, and
-- returns none of them.
CREATE FUNCTION agentapi.organization_limits(OUT resource text, OUT most bigint, OUT used bigint, OUT readable boolean)
    RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.resource,
           -- A number of JSON has any size; up to this one, every reader of JSON knows it exactly.
           CASE jsonb_typeof(w.written) WHEN 'number'
                THEN least(greatest(floor((w.written #>> '{}')::numeric), 0), 9007199254740991)::bigint END,
           agentapi.share_used(o.id, 'organization ' || r.resource)::bigint,
           coalesce(jsonb_typeof(w.limits), 'null') IN ('object', 'null')
           AND coalesce(jsonb_typeof(w.written), 'null') IN ('number', 'null')
      FROM public.organizations o
     CROSS JOIN (VALUES ('conversations'), ('running_turns'), ('running_bytes')) AS r (resource)
     CROSS JOIN LATERAL (SELECT o.settings -> 'limits' AS limits,
                                o.settings -> 'limits' -> ('max_' || r.resource) AS written) AS w
     WHERE o.id = agentapi.bound_organization() AND o.id = ANY (agentapi.own_organization_ids())
       AND agentapi.may('organization:read', '{admin,owner}', 'admin')
$$;
REVOKE ALL ON FUNCTION agentapi.organization_limits() FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.organization_limits() TO agentapi_writer;
