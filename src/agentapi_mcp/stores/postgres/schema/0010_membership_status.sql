-- needs: 0.1.0
-- Whether a user may use an organisation now: as a member, and as far as the application of an existing database says
-- so in columns of its own, profiles.status and is_deleted. They are read wherever they are, also if they are added later.

-- SECURITY DEFINER: the program has no right to these columns. A name of which a table has no column is found one level
-- further out, as NULL; plpgsql looks it up anew after a change of the table.
CREATE FUNCTION agentapi.membership_status(p_user uuid, p_org uuid) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    RETURN (
        SELECT CASE
               WHEN NOT EXISTS (SELECT FROM public.organization_members m
                                 WHERE m.user_id = p_user AND m.organization_id = p_org
                                   AND coalesce(is_deleted::text, 'false') <> 'true') THEN 'removed'
               WHEN EXISTS (SELECT FROM public.organizations o
                             WHERE o.id = p_org AND is_deleted::text = 'true') THEN 'organization_deleted'
               WHEN EXISTS (SELECT FROM public.profiles p
                             WHERE p.id = p_user
                               AND (is_deleted::text = 'true' OR lower(trim(status::text)) <> 'active')) THEN 'suspended'
               ELSE 'active' END
          FROM (SELECT NULL::text AS is_deleted, NULL::text AS status) AS missing);
END
$function$;
REVOKE ALL ON FUNCTION agentapi.membership_status(uuid, uuid) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.membership_status(uuid, uuid) TO agentapi_system;

-- The policies of the program's statements ask the same. What outside clients see of an organisation that they are
-- members of is for the application to say.
CREATE OR REPLACE FUNCTION agentapi.own_organization_ids() RETURNS uuid[] LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS
    $$ SELECT coalesce(array_agg(m.organization_id), '{}')
         FROM public.organization_members m
        WHERE m.user_id = auth.uid()
          AND m.organization_id = coalesce(agentapi.bound_organization(), m.organization_id)
          AND (agentapi.bound_organization() IS NULL
               OR agentapi.membership_status(m.user_id, m.organization_id) = 'active') $$;
