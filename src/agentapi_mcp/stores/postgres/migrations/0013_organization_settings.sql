-- needs: 0.1.0
-- What an organisation allows stands beside its defaults, and its administrators set both.
DO $$
DECLARE
    kind text := (SELECT format_type(atttypid, NULL) FROM pg_attribute
                   WHERE attrelid = 'public.organizations'::regclass AND attname = 'name' AND NOT attisdropped);
BEGIN
    IF kind IS NULL OR kind NOT IN ('text', 'character varying') THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The database does not fit, seen as the login %s: public.organizations.name must be text, it is %s',
            current_user, coalesce(kind, 'missing'));
    END IF;
END
$$;
CREATE OR REPLACE VIEW agentapi.own_organizations WITH (security_barrier = true) AS
SELECT o.id, jsonb_strip_nulls(jsonb_build_object(
           'default_agent', o.settings -> 'default_agent',
           'default_model', o.settings -> 'default_model',
           'temperature', o.settings -> 'temperature',
           'max_tokens', o.settings -> 'max_tokens',
           'system_prompt', o.settings -> 'system_prompt',
           'allowed_agents', o.settings -> 'allowed_agents',
           'allowed_models', o.settings -> 'allowed_models')) AS settings
  FROM public.organizations o
 WHERE EXISTS (SELECT FROM public.organization_members m
                WHERE m.organization_id = o.id AND m.user_id = (SELECT auth.uid()));

-- Who may read and set them is asked once more here, as for a session.
CREATE POLICY agentapi_writer ON public.organizations TO agentapi_writer
    USING (id = (SELECT agentapi.bound_organization()) AND id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
           AND (SELECT agentapi.may('organization:read', '{admin,owner}', 'admin')))
    WITH CHECK ((SELECT agentapi.may('organization:edit', '{admin,owner}', 'admin')));
GRANT SELECT (id, name, settings), UPDATE (settings) ON public.organizations TO agentapi_writer;

-- Numbers of the bound organisation for its administrators, with the owner's rights: no row of anybody comes out.
CREATE FUNCTION agentapi.organization_numbers(OUT members bigint, OUT sessions bigint, OUT messages bigint,
    OUT turns jsonb, OUT input_tokens bigint, OUT output_tokens bigint, OUT cost_usd numeric)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH org AS (
        SELECT o AS id FROM unnest(agentapi.own_organization_ids()) AS o
         WHERE o = agentapi.bound_organization() AND agentapi.may('organization:read', '{admin,owner}', 'admin')
    ), recent AS (
        SELECT t.status, t.input_tokens, t.output_tokens, t.cost_usd FROM agentapi.turns t JOIN org ON org.id = t.org_id
         WHERE t.created_at > now() - interval '30 days'
    )
    SELECT (SELECT count(*) FROM public.organization_members m JOIN org ON org.id = m.organization_id),
           (SELECT count(*) FROM public.chat_sessions s JOIN org ON org.id = s.org_id),
           (SELECT count(*) FROM public.chat_sessions s JOIN org ON org.id = s.org_id
              JOIN public.chat_messages c ON c.session_id = s.id),
           (SELECT coalesce(jsonb_object_agg(status, n), '{}')
              FROM (SELECT status, count(*) AS n FROM recent GROUP BY status) AS by_status),
           (SELECT coalesce(sum(input_tokens), 0) FROM recent), (SELECT coalesce(sum(output_tokens), 0) FROM recent),
           (SELECT sum(cost_usd) FROM recent)
      FROM org
$$;
REVOKE ALL ON FUNCTION agentapi.organization_numbers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION agentapi.organization_numbers() TO agentapi_writer;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                    WHERE i.indrelid = 'public.chat_sessions'::regclass AND a.attname = 'org_id') THEN
        CREATE INDEX agentapi_sessions_organization ON public.chat_sessions (org_id);
    END IF;
END
$$;
CREATE INDEX turns_organization ON agentapi.turns (org_id, created_at);
