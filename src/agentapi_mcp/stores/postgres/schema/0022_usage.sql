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
ALTER TABLE agentapi.usage_daily
    ADD COLUMN latencies numeric NOT NULL GENERATED ALWAYS AS (agentapi.latencies_of(latency)) STORED;

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
           (SELECT sum(cost_nanos) / 1000000000 FROM recent)
      FROM org
$$;
