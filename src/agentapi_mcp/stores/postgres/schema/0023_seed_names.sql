-- needs: 0.1.0
-- What other programs look for in a database of agents: views and functions under the names of such schemas, over the
-- tables that are there. Each shows its reader's own rows. Where a name is taken in `public`, nothing is made there.

-- 1. Indexes. Where a session's agent or model is deleted, its sessions are looked for.
DO $$
DECLARE
    i record;
BEGIN
    FOR i IN SELECT * FROM (VALUES
            ('chat_sessions', 'agent_id', 'agentapi_sessions_agent', true),
            ('chat_sessions', 'model_id', 'agentapi_sessions_model', true),
            ('agents', 'enabled', 'idx_agents_enabled', false), ('agents', 'type', 'idx_agents_type', false),
            ('models', 'enabled', 'idx_models_enabled', false), ('models', 'provider', 'idx_models_provider', false),
            ('chat_messages', 'role', 'idx_chat_messages_role', false),
            ('agent_health', 'status', 'idx_agent_health_status', false)) AS w (t, c, name, everywhere) LOOP
        CONTINUE WHEN NOT i.everywhere AND NOT EXISTS (SELECT FROM agentapi.facts WHERE name = i.t AND value = 'ours');
        CONTINUE WHEN to_regclass('public.' || i.name) IS NOT NULL OR EXISTS (
            SELECT FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
             WHERE x.indrelid = to_regclass('public.' || i.t) AND a.attname = i.c AND x.indpred IS NULL);
        EXECUTE format('CREATE INDEX %I ON public.%I (%I)', i.name, i.t, i.c);
    END LOOP;
END
$$;


-- 2. What was never measured is unknown, in a view of ours.
DO $$
BEGIN
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'v_agent_status' AND value = 'ours') THEN
        CREATE OR REPLACE VIEW public.v_agent_status WITH (security_invoker = true) AS
            SELECT a.id, a.name, a.type, a.enabled,
                   (CASE WHEN h.last_check IS NULL THEN 'unknown' ELSE h.status END)::varchar(50) AS health_status,
                   h.last_check, h.consecutive_failures,
                   (SELECT count(*) FROM public.models m WHERE m.agent_id = a.id AND m.enabled) AS model_count
              FROM public.agents a
              LEFT JOIN public.agent_health h ON h.agent_id = a.id;
    END IF;
END
$$;


-- 3. When a member was last active, in a table of ours: by the statement that begins a turn, at most once in ten minutes.
--    Without waiting: who changes the membership meanwhile does not hold a turn up.
CREATE FUNCTION agentapi.note_activity() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_member CONSTANT uuid := (
        SELECT m.id FROM public.organization_members m
         WHERE m.user_id = NEW.user_id AND m.organization_id = NEW.org_id
           AND (m.last_active_at IS NULL OR m.last_active_at < now() - interval '10 minutes'));
BEGIN
    IF v_member IS NOT NULL THEN
        UPDATE public.organization_members SET last_active_at = now()
         WHERE id = (SELECT m.id FROM public.organization_members m WHERE m.id = v_member FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    RETURN NULL;
END
$function$;
REVOKE ALL ON FUNCTION agentapi.note_activity() FROM PUBLIC, anon, authenticated, service_role;
DO $$
BEGIN
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'organization_members' AND value = 'ours') THEN
        ALTER TABLE public.organization_members ADD COLUMN last_active_at timestamptz;
        -- Being active is no change of the membership.
        DROP TRIGGER update_organization_members_updated_at ON public.organization_members;
        CREATE TRIGGER update_organization_members_updated_at
            BEFORE UPDATE OF id, organization_id, user_id, role, permissions, created_at ON public.organization_members
            FOR EACH ROW EXECUTE FUNCTION public.update_updated_at_column();
        CREATE TRIGGER note_activity AFTER INSERT ON agentapi.turns FOR EACH ROW
            EXECUTE FUNCTION agentapi.note_activity();
    END IF;
END
$$;


-- 4. Views, each with its rows' predicate in it, so that an index finds them also for a reader who names none. The
--    policies of the tables hold as well (security_invoker). What is null is not known.

-- An interaction is a session, of this program or recorded from elsewhere.
-- total_cost    US dollars: what its turns have cost, and what its user reports of it
-- unpriced      how many of its turns have a cost that nobody knows
-- full_content  always null: its text is in chat_messages, and a list of sessions must not read it
-- vendor_id     who billed its last turn, or would have, as its user says
CREATE VIEW agentapi.ai_interactions WITH (security_invoker = true) AS
SELECT s.id, s.agent_id, s.title::text AS title, f.description, f.interaction_type AS interaction_type_id, f.external_link,
       f.external_id, coalesce(f.external_metadata, '{}') AS external_metadata,
       coalesce(f.content_preview, (SELECT o.opening FROM agentapi.own_openings o WHERE o.session_id = s.id))
           AS content_preview,
       NULL::text AS full_content,
       (SELECT sum(x.n) FROM (SELECT t.input_tokens FROM agentapi.turns t WHERE t.session_id = s.id UNION ALL
                              SELECT f.reported_input_tokens) AS x (n))::bigint AS input_tokens,
       (SELECT sum(x.n) FROM (SELECT t.output_tokens FROM agentapi.turns t WHERE t.session_id = s.id UNION ALL
                              SELECT f.reported_output_tokens) AS x (n))::bigint AS output_tokens,
       (SELECT trim_scale(sum(round(x.n, 9))) FROM (
            SELECT CASE WHEN t.asked_at IS NULL AND t.ended_at IS NOT NULL THEN coalesce(t.cost_usd, 0) ELSE t.cost_usd END
              FROM agentapi.turns t WHERE t.session_id = s.id UNION ALL SELECT f.reported_cost_usd) AS x (n)) AS total_cost,
       coalesce(f.tags, '{}') AS tags, coalesce(f.keywords, '{}') AS keywords, f.rating::integer AS satisfaction_rating,
       f.usefulness::integer AS usefulness_rating, f.note AS feedback_notes, s.created_at AS started_at,
       coalesce(f.ended_at, s.last_message_at) AS ended_at,
       CASE WHEN isfinite(s.created_at) AND isfinite(coalesce(f.ended_at, s.last_message_at))
            THEN greatest(0, least(2147483647, round(extract(
                epoch FROM coalesce(f.ended_at, s.last_message_at) - s.created_at) / 60)))::integer END AS duration_minutes,
       coalesce(f.status, 'active') AS status, s.user_id, s.created_at, greatest(s.created_at, s.last_message_at, f.updated_at) AS updated_at,
       s.org_id, f.model AS model_name,
       coalesce(f.provider, (SELECT t.paid_provider FROM agentapi.turns t WHERE t.session_id = s.id
                              ORDER BY t.created_at DESC, t.id DESC LIMIT 1)) AS vendor_id,
       (SELECT count(*) FROM agentapi.turns t WHERE t.session_id = s.id AND t.ended_at IS NOT NULL
                                                AND t.cost_usd IS NULL AND t.asked_at IS NOT NULL)::integer AS unpriced
  FROM public.chat_sessions s
  LEFT JOIN agentapi.session_facts f ON f.session_id = s.id
 WHERE s.user_id = (SELECT auth.uid());

CREATE VIEW agentapi.recent_interactions WITH (security_invoker = true) AS
SELECT i.*, (SELECT a.name::text FROM agentapi.agent_names a WHERE a.id = i.agent_id) AS agent_name,
       (SELECT p.name FROM agentapi.providers p WHERE p.id = i.vendor_id) AS vendor_name,
       y.name AS interaction_type_name, y.icon AS interaction_type_icon, y.color AS interaction_type_color
  FROM agentapi.ai_interactions i
  LEFT JOIN agentapi.terms y ON y.kind = 'interaction_type' AND y.id = i.interaction_type_id
 ORDER BY i.started_at DESC;

-- A user's days (UTC), in all organisations of which they are a member. An interaction counts on each day on which it had
-- a turn.
-- total_cost                  billed_cost and reported_cost together; null where none of it is known
-- total_duration_minutes      how long the agents worked
-- vendor_usage, feature_usage how many interactions by provider, and by interaction type
CREATE VIEW agentapi.ai_usage_stats WITH (security_invoker = true) AS
SELECT left(encode(sha256(uuid_send(d.person) || convert_to(d.day::text, 'UTF8')), 'hex'), 32)::uuid AS id,
       (SELECT auth.uid()) AS user_id, d.day AS date,
       (SELECT count(DISTINCT l.session_id) FROM agentapi.ledger l
         WHERE l.person = d.person AND l.at >= d.day::timestamp AT TIME ZONE 'UTC'
           AND l.at < (d.day + 1)::timestamp AT TIME ZONE 'UTC' AND l.kind <> 'correction')::integer AS total_interactions,
       d.agents::integer AS unique_agents_used, round(d.latency_ms / 60000)::integer AS total_duration_minutes,
       (SELECT coalesce(jsonb_object_agg(u.name, u.n), '{}') FROM (
            SELECT coalesce(l.interaction_type, 'unspecified') AS name, count(DISTINCT l.session_id) AS n
              FROM agentapi.ledger l
             WHERE l.person = d.person AND l.at >= d.day::timestamp AT TIME ZONE 'UTC'
               AND l.at < (d.day + 1)::timestamp AT TIME ZONE 'UTC' AND l.kind <> 'correction' GROUP BY 1) AS u)
           AS feature_usage,
       (SELECT coalesce(jsonb_object_agg(u.name, u.n), '{}') FROM (
            SELECT coalesce(l.provider, 'unknown') AS name, count(DISTINCT l.session_id) AS n
              FROM agentapi.ledger l
             WHERE l.person = d.person AND l.at >= d.day::timestamp AT TIME ZONE 'UTC'
               AND l.at < (d.day + 1)::timestamp AT TIME ZONE 'UTC' AND l.kind <> 'correction' GROUP BY 1) AS u)
           AS vendor_usage,
       CASE WHEN d.reported = 0 AND d.unpriced >= d.turns AND d.cost_nanos = 0 THEN NULL
            ELSE trim_scale((d.cost_nanos + d.reported_nanos) * 0.000000001) END AS total_cost,
       (d.input_tokens + d.reported_input_tokens)::bigint AS total_input_tokens,
       (d.output_tokens + d.reported_output_tokens)::bigint AS total_output_tokens,
       (d.rating_sum / nullif(d.ratings, 0)::real)::real AS avg_satisfaction,
       (d.usefulness_sum / nullif(d.usefulness_ratings, 0)::real)::real AS avg_usefulness,
       trim_scale(d.cost_nanos * 0.000000001) AS billed_cost, trim_scale(d.reported_nanos * 0.000000001) AS reported_cost,
       d.turns::integer AS turns, d.unpriced::integer AS unpriced
  FROM (SELECT u.person, u.day, count(DISTINCT u.agent) AS agents, sum(u.turns) AS turns, sum(u.unpriced) AS unpriced,
               sum(u.reported) AS reported, sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens,
               sum(u.reported_input_tokens) AS reported_input_tokens,
               sum(u.reported_output_tokens) AS reported_output_tokens, sum(u.cost_nanos) AS cost_nanos,
               sum(u.reported_nanos) AS reported_nanos, sum(u.latency_ms) AS latency_ms, sum(u.ratings) AS ratings,
               sum(u.rating_sum) AS rating_sum, sum(u.usefulness_ratings) AS usefulness_ratings,
               sum(u.usefulness_sum) AS usefulness_sum
          FROM agentapi.usage_daily u WHERE u.person = (SELECT agentapi.own_person()) GROUP BY u.person, u.day) AS d;

-- The sums that a reader may see: of the organisations that they administer all, of others their own. Who administers
-- none does not look: how many organisations there are is not known when the plan is made.
CREATE VIEW agentapi.visible_usage WITH (security_invoker = true) AS
SELECT u.org_id, u.day, u.agent, u.turns, u.errors, u.unpriced, u.input_tokens, u.output_tokens, u.cost_nanos, u.latency_ms,
       u.last_at, u.reported, u.reported_input_tokens, u.reported_output_tokens, u.reported_nanos, u.ratings, u.rating_sum,
       u.usefulness_ratings, u.usefulness_sum
  FROM agentapi.usage_daily u
 WHERE u.org_id = ANY ((SELECT agentapi.accounted_organization_ids())::uuid[])
   AND (SELECT agentapi.accounted_organization_ids() <> '{}')
 UNION ALL
SELECT u.org_id, u.day, u.agent, u.turns, u.errors, u.unpriced, u.input_tokens, u.output_tokens, u.cost_nanos, u.latency_ms,
       u.last_at, u.reported, u.reported_input_tokens, u.reported_output_tokens, u.reported_nanos, u.ratings, u.rating_sum,
       u.usefulness_ratings, u.usefulness_sum
  FROM agentapi.usage_daily u
 WHERE u.person = (SELECT agentapi.own_person())
   AND u.org_id <> ALL ((SELECT agentapi.accounted_organization_ids())::uuid[]);

-- How each agent did on each day, a row for each metric; without the metrics that are not known of that day.
-- metric_type  turns, success_rate, response_time (the mean), cost, input_tokens, output_tokens, satisfaction (1 to 5)
-- day          the day in UTC: who names it reads no others
CREATE VIEW agentapi.agent_metrics WITH (security_invoker = true) AS
SELECT left(encode(sha256(uuid_send(d.org_id) || convert_to(concat_ws('/', d.day, m.metric_type, d.agent), 'UTF8')), 'hex'),
            32)::uuid AS id,
       a.id AS agent_id, m.metric_type, m.value, m.unit,
       jsonb_build_object('agent', d.agent, 'turns', d.turns, 'unpriced', d.unpriced) AS metadata,
       d.day::timestamp AT TIME ZONE 'UTC' AS recorded_at, d.day, d.org_id
  FROM (SELECT u.org_id, u.day, u.agent, sum(u.turns) AS turns, sum(u.errors) AS errors, sum(u.unpriced) AS unpriced,
               sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens, sum(u.cost_nanos) AS cost_nanos,
               sum(u.latency_ms) AS latency_ms, sum(u.ratings) AS ratings, sum(u.rating_sum) AS rating_sum
          FROM agentapi.visible_usage u GROUP BY u.org_id, u.day, u.agent) AS d
  LEFT JOIN agentapi.agent_names a ON a.name = d.agent
 CROSS JOIN LATERAL (VALUES
       ('turns', d.turns::numeric, 'count'),
       ('success_rate', round(100 * (d.turns - d.errors)::numeric / d.turns, 4), 'percent'),
       ('response_time', round(d.latency_ms / d.turns, 4), 'ms'),
       ('cost', CASE WHEN d.unpriced < d.turns OR d.cost_nanos <> 0 THEN trim_scale(d.cost_nanos * 0.000000001) END, 'usd'),
       ('input_tokens', d.input_tokens, 'count'), ('output_tokens', d.output_tokens, 'count'),
       ('satisfaction', round(d.rating_sum::numeric / nullif(d.ratings, 0), 4), 'rating')) AS m (metric_type, value, unit)
 WHERE d.turns > 0 AND m.value IS NOT NULL;

REVOKE ALL ON agentapi.ai_interactions, agentapi.recent_interactions, agentapi.ai_usage_stats, agentapi.visible_usage,
    agentapi.agent_metrics FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON agentapi.ai_interactions, agentapi.recent_interactions, agentapi.ai_usage_stats, agentapi.visible_usage,
    agentapi.agent_metrics TO authenticated;


-- 5. Writing an interaction.
-- Whether the caller, who is a member now, may chat or edit sessions in an organisation: as the program says, or for other
-- programs by the membership. A role of another name counts as viewer: what [roles] of the configuration says is not
-- known here.
CREATE FUNCTION agentapi.has_right_in(p_org uuid, p_action text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
    SELECT coalesce(bool_or(CASE WHEN agentapi.bound_organization() IS NOT NULL
               THEN p_org = agentapi.bound_organization()
                    AND CASE p_action WHEN 'sessions:chat' THEN agentapi.may_chat() ELSE agentapi.may_edit() END
               ELSE (lower(btrim(m.role::text)) IN ('member', 'admin', 'owner')
                     OR m.permissions #> ARRAY['agentapi', p_action] = 'true')
                    AND coalesce(m.permissions #> ARRAY['agentapi', p_action], 'true') = 'true' END), false)
           AND agentapi.membership_status(auth.uid(), p_org) = 'active'
      FROM public.organization_members m WHERE m.user_id = auth.uid() AND m.organization_id = p_org
$function$;

-- The organisation of a new interaction: the one that is named, the only one where the caller may chat, or the one that
-- their profile says.
CREATE FUNCTION agentapi.organization_for(p_named uuid) RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_orgs CONSTANT uuid[] := ARRAY(SELECT o FROM unnest(agentapi.own_organization_ids()) AS o
                                     WHERE agentapi.has_right_in(o, 'sessions:chat'));
    v_current CONSTANT uuid := (SELECT p.current_organization_id FROM public.profiles p WHERE p.id = auth.uid());
BEGIN
    IF v_orgs = '{}' OR p_named <> ALL (v_orgs) THEN
        RAISE insufficient_privilege USING MESSAGE =
            'you may not record interactions: for that you must be an active member, and no viewer, of the organisation';
    END IF;
    IF p_named IS NULL AND cardinality(v_orgs) > 1 AND (v_current IS NULL OR v_current <> ALL (v_orgs)) THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'you are a member of several organisations: say which by org_id, or by current_organization_id of the profile';
    END IF;
    RETURN coalesce(p_named, CASE WHEN cardinality(v_orgs) = 1 THEN v_orgs[1] ELSE v_current END);
END
$function$;

-- Tags and keywords as the program keeps them: in lower case, with single blanks, each once.
CREATE FUNCTION agentapi.plain_tags(p_tags text[], p_column text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_plain CONSTANT text[] := ARRAY(
        SELECT g.tag FROM (SELECT lower(btrim(regexp_replace(t, '\s+', ' ', 'g'))) AS tag, min(n) AS n
                             FROM unnest(p_tags) WITH ORDINALITY AS u (t, n) GROUP BY 1) AS g ORDER BY g.n);
    v_tag text;
BEGIN
    FOREACH v_tag IN ARRAY v_plain LOOP
        IF coalesce(v_tag, '') = '' OR length(v_tag) > 50 OR v_tag ~ '[,[:cntrl:]]' THEN
            RAISE invalid_parameter_value USING MESSAGE = format(
                '%s: %L is none: each has 1 to 50 characters, no comma and nothing that cannot be seen', p_column, v_tag);
        END IF;
    END LOOP;
    IF cardinality(v_plain) > 50 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s: there are %s; at most 50 are kept', p_column,
                                                             cardinality(v_plain));
    END IF;
    RETURN v_plain;
END
$function$;

-- What is wrong with an interaction, as the program checks what it is told; null if nothing is.
CREATE FUNCTION agentapi.fault_of(i agentapi.ai_interactions) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS
$function$
    SELECT CASE
        WHEN coalesce(btrim(i.title), '') = '' OR length(i.title) > 255 OR i.title ~ '[[:cntrl:]]'
            THEN 'title: it must be one line of 1 to 255 characters'
        WHEN i.full_content IS NOT NULL
            THEN 'full_content: it is not kept; give a content_preview of at most 4,000 characters'
        WHEN length(i.content_preview) > 4000 THEN 'content_preview: it must have at most 4,000 characters'
        WHEN length(i.description) > 4000 THEN 'description: it must have at most 4,000 characters'
        WHEN length(i.feedback_notes) > 4000 THEN 'feedback_notes: they must have at most 4,000 characters'
        WHEN i.satisfaction_rating NOT BETWEEN 1 AND 5 THEN 'satisfaction_rating: it must be between 1 and 5'
        WHEN i.usefulness_rating NOT BETWEEN 1 AND 5 THEN 'usefulness_rating: it must be between 1 and 5'
        WHEN i.input_tokens NOT BETWEEN 0 AND 1000000000000 THEN 'input_tokens: they must be between 0 and 10^12'
        WHEN i.output_tokens NOT BETWEEN 0 AND 1000000000000 THEN 'output_tokens: they must be between 0 and 10^12'
        WHEN i.total_cost NOT BETWEEN 0 AND 1000000 THEN 'total_cost: it must be US dollars between 0 and 1,000,000'
        WHEN i.external_link !~* '^https?://[^[:space:]/?#@]+([/?#][^[:space:]]*)?$' OR octet_length(i.external_link) > 2000
            THEN 'external_link: it must be an http or https URL of at most 2,000 bytes, without a name or a password'
        WHEN btrim(i.external_id) = '' OR octet_length(i.external_id) > 255
            THEN 'external_id: it must have 1 to 255 bytes'
        WHEN jsonb_typeof(i.external_metadata) <> 'object' OR octet_length(i.external_metadata::text) > 20000
            THEN 'external_metadata: it must be a JSON object of at most 20,000 bytes'
        WHEN btrim(i.model_name) = '' OR length(i.model_name) > 255 THEN 'model_name: it must have 1 to 255 characters'
        WHEN btrim(i.vendor_id) = '' OR length(i.vendor_id) > 100 THEN 'vendor_id: it must have 1 to 100 characters'
        WHEN i.status = 'deleted' THEN 'status: an interaction is deleted by DELETE'
        WHEN i.status NOT IN ('active', 'completed', 'archived') THEN 'status: it must be active, completed or archived'
        WHEN i.interaction_type_id IS NOT NULL AND NOT EXISTS (
                SELECT FROM agentapi.terms y WHERE y.kind = 'interaction_type' AND y.is_active
                                               AND y.id = lower(btrim(i.interaction_type_id)))
            THEN 'interaction_type_id: it must be one of ' || coalesce((
                SELECT string_agg(y.id, ', ' ORDER BY y.sort_order, y.id) FROM agentapi.terms y
                 WHERE y.kind = 'interaction_type' AND y.is_active), 'none')
        WHEN greatest(i.started_at, i.ended_at) > clock_timestamp()
            THEN 'started_at and ended_at: record it once it has happened'
        WHEN i.ended_at < i.started_at THEN 'ended_at: it is before started_at'
        WHEN NOT isfinite(i.started_at) OR NOT isfinite(i.ended_at) THEN 'started_at and ended_at: they must be finite'
        WHEN i.duration_minutes < 0 OR i.duration_minutes IS DISTINCT FROM
                 greatest(0, round(extract(epoch FROM i.ended_at - i.started_at) / 60))
             AND i.duration_minutes IS NOT NULL AND i.ended_at IS NOT NULL AND i.started_at IS NOT NULL
            THEN 'duration_minutes: it is not the time from started_at to ended_at; leave it out' END
$function$;

-- Keeps what a user says of a session, where it changes or is `recorded`, and tells the processes and the audit log.
-- SECURITY DEFINER, since other programs may write none of it; for the trigger alone, and only of a session of the caller
-- in an organisation in which they may do that.
CREATE FUNCTION agentapi.say_of_interaction(i agentapi.ai_interactions, p_recorded boolean, p_actions text[])
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

-- INSERT records what happened elsewhere, as record_interaction does. UPDATE changes what users say of a session, DELETE
-- deletes it. Sessions are written with the rights of the caller, and under whatever policies they have.
CREATE FUNCTION agentapi.write_interaction() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    c_changeable CONSTANT text[] := ARRAY['title', 'description', 'interaction_type_id', 'tags', 'keywords', 'status',
        'satisfaction_rating', 'usefulness_rating', 'feedback_notes', 'updated_at'];
    i agentapi.ai_interactions;
    v_changed text[];
    v_fault text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        i := OLD;
        PERFORM agentapi.say_of_interaction(i, false, ARRAY['session_deleted']);
        IF EXISTS (SELECT FROM agentapi.turns t WHERE t.session_id = i.id AND t.status IN ('running', 'input_required')) THEN
            RAISE object_in_use USING MESSAGE = 'a turn is running in this session: wait for it, or cancel it';
        END IF;
        DELETE FROM public.chat_sessions s WHERE s.id = i.id AND s.user_id = auth.uid();
        IF NOT FOUND THEN
            RAISE insufficient_privilege USING MESSAGE = 'a policy of chat_sessions keeps this session';
        END IF;
        RETURN OLD;
    END IF;
    i := NEW;
    IF TG_OP = 'INSERT' THEN
        IF auth.uid() IS NULL OR coalesce(i.user_id, auth.uid()) <> auth.uid() THEN
            RAISE insufficient_privilege USING MESSAGE = 'user_id: an interaction is recorded by its own user';
        END IF;
        IF i.unpriced IS NOT NULL OR i.updated_at IS NOT NULL THEN
            RAISE invalid_parameter_value USING MESSAGE = 'unpriced and updated_at are kept by the program: leave them out';
        END IF;
        i.started_at := coalesce(i.started_at, i.created_at);
        v_fault := agentapi.fault_of(i);
    ELSE
        SELECT coalesce(array_agg(n.key ORDER BY n.key), '{}') INTO v_changed
          FROM jsonb_each(to_jsonb(NEW)) AS n JOIN jsonb_each(to_jsonb(OLD)) AS o USING (key)
         WHERE n.value IS DISTINCT FROM o.value;
        IF NOT v_changed <@ c_changeable THEN
            RAISE feature_not_supported USING MESSAGE = format('%s: what is recorded does not change; %s may', (
                SELECT string_agg(c, ', ') FROM unnest(v_changed) AS c WHERE c <> ALL (c_changeable)),
                array_to_string(c_changeable, ', '));
        END IF;
        -- Only what is said now is checked: what is there may be older than the rules.
        i := NULL;
        i.title := CASE WHEN 'title' = ANY (v_changed) THEN NEW.title ELSE '-' END;
        i.description := NEW.description;
        i.interaction_type_id := CASE WHEN 'interaction_type_id' = ANY (v_changed) THEN NEW.interaction_type_id END;
        i.status := coalesce(NEW.status, 'none');
        i.satisfaction_rating := NEW.satisfaction_rating;
        i.usefulness_rating := NEW.usefulness_rating;
        i.feedback_notes := NEW.feedback_notes;
        v_fault := agentapi.fault_of(i);
        i := NEW;
    END IF;
    IF v_fault IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = v_fault;
    END IF;
    i.title := btrim(i.title);
    i.interaction_type_id := lower(btrim(i.interaction_type_id));
    i.tags := agentapi.plain_tags(i.tags, 'tags');
    i.keywords := agentapi.plain_tags(i.keywords, 'keywords');
    IF TG_OP = 'INSERT' THEN
        i.id := coalesce(i.id, gen_random_uuid());
        i.org_id := agentapi.organization_for(i.org_id);
        i.status := coalesce(i.status, 'completed');
        i.external_id := btrim(i.external_id);
        i.external_metadata := coalesce(i.external_metadata, '{}');
        i.model_name := btrim(i.model_name);
        i.vendor_id := lower(btrim(i.vendor_id));
        i.started_at := coalesce(i.started_at, coalesce(i.ended_at, clock_timestamp())
                                               - make_interval(mins => coalesce(i.duration_minutes, 0)));
        i.ended_at := coalesce(i.ended_at, least(clock_timestamp(), i.started_at
                                                 + make_interval(mins => coalesce(i.duration_minutes, 0))));
        INSERT INTO public.chat_sessions (id, user_id, org_id, agent_id, title, created_at, last_message_at)
        VALUES (i.id, auth.uid(), i.org_id, i.agent_id, i.title, i.started_at, i.ended_at);
        PERFORM agentapi.say_of_interaction(i, true, ARRAY['interaction_recorded']);
    ELSE
        PERFORM agentapi.say_of_interaction(i, false, ARRAY(
            SELECT DISTINCT CASE c WHEN 'title' THEN 'session_renamed' WHEN 'status' THEN 'session_archived'
                                   WHEN 'satisfaction_rating' THEN 'rated' WHEN 'usefulness_rating' THEN 'rated'
                                   WHEN 'feedback_notes' THEN 'rated' ELSE 'session_tagged' END
              FROM unnest(v_changed) AS c WHERE c <> 'updated_at'));
        IF 'title' = ANY (v_changed) THEN
            UPDATE public.chat_sessions s SET title = i.title WHERE s.id = i.id;
        END IF;
    END IF;
    SELECT * INTO NEW FROM agentapi.ai_interactions v WHERE v.id = i.id;
    RETURN NEW;
END
$function$;


-- 6. Functions.
CREATE FUNCTION agentapi.update_daily_usage_stats(day date DEFAULT CURRENT_DATE) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    RAISE NOTICE 'ai_usage_stats of % is up to date: the sums are written with each turn''s end', day;
END
$function$;

-- What an agent was used for in the last days (UTC, today included), as far as the caller may see: of the organisations
-- that they administer all, of others their own.
-- success_rate       percent of the turns
-- avg_response_time  milliseconds
CREATE FUNCTION agentapi.get_agent_usage_summary(agent uuid, days integer DEFAULT 30)
RETURNS TABLE (agent_id uuid, agent_name text, total_interactions bigint, total_turns bigint, total_input_tokens bigint,
    total_output_tokens bigint, total_cost numeric, unpriced bigint, success_rate numeric, avg_response_time numeric,
    avg_satisfaction numeric, avg_usefulness numeric, last_used_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    v_name CONSTANT text := (SELECT a.name FROM agentapi.agent_names a WHERE a.id = $1);
    v_since date;
BEGIN
    IF $2 IS NULL OR $2 NOT BETWEEN 1 AND 3660 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'days: say how many, from 1 to 3660';
    END IF;
    IF v_name IS NULL THEN
        RETURN;
    END IF;
    v_since := (now() AT TIME ZONE 'UTC')::date - $2 + 1;
    RETURN QUERY
    SELECT $1, v_name, (
            SELECT count(DISTINCT l.session_id) FROM (
                SELECT e.session_id FROM agentapi.ledger e
                 WHERE e.org_id = ANY ((SELECT agentapi.accounted_organization_ids())::uuid[]) AND e.agent = v_name
                   AND (SELECT agentapi.accounted_organization_ids() <> '{}')
                   AND e.at >= v_since::timestamp AT TIME ZONE 'UTC' AND e.kind <> 'correction'
                 UNION ALL
                SELECT e.session_id FROM agentapi.ledger e
                 WHERE e.person = (SELECT agentapi.own_person()) AND e.agent = v_name
                   AND e.at >= v_since::timestamp AT TIME ZONE 'UTC' AND e.kind <> 'correction') AS l),
           coalesce(sum(u.turns), 0)::bigint, coalesce(sum(u.input_tokens + u.reported_input_tokens), 0)::bigint,
           coalesce(sum(u.output_tokens + u.reported_output_tokens), 0)::bigint,
           CASE WHEN sum(u.reported) > 0 OR sum(u.unpriced) < sum(u.turns) OR sum(u.cost_nanos) <> 0
                THEN trim_scale(sum(u.cost_nanos + u.reported_nanos) * 0.000000001)
                WHEN count(*) = 0 THEN 0 END,
           coalesce(sum(u.unpriced), 0)::bigint,
           round(100 * (sum(u.turns) - sum(u.errors))::numeric / nullif(sum(u.turns), 0), 4),
           round(sum(u.latency_ms) / nullif(sum(u.turns), 0), 4),
           round(sum(u.rating_sum)::numeric / nullif(sum(u.ratings), 0), 4),
           round(sum(u.usefulness_sum)::numeric / nullif(sum(u.usefulness_ratings), 0), 4), max(u.last_at)
      FROM agentapi.visible_usage u WHERE u.agent = v_name AND u.day >= v_since;
END
$function$;

REVOKE ALL ON FUNCTION agentapi.has_right_in(uuid, text), agentapi.organization_for(uuid),
    agentapi.plain_tags(text[], text), agentapi.fault_of(agentapi.ai_interactions),
    agentapi.say_of_interaction(agentapi.ai_interactions, boolean, text[]), agentapi.write_interaction(),
    agentapi.update_daily_usage_stats(date),
    agentapi.get_agent_usage_summary(uuid, integer) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.organization_for(uuid), agentapi.plain_tags(text[], text),
    agentapi.fault_of(agentapi.ai_interactions), agentapi.say_of_interaction(agentapi.ai_interactions, boolean, text[]),
    agentapi.update_daily_usage_stats(date), agentapi.get_agent_usage_summary(uuid, integer) TO authenticated;
GRANT EXECUTE ON FUNCTION agentapi.update_daily_usage_stats(date) TO service_role;


-- 7. The names in `public`, where they are free: a view of another program, or a function of any arguments that could be
--    called by mistake, keeps its name to itself.
DO $$
DECLARE
    n record;
BEGIN
    FOR n IN SELECT * FROM (VALUES
            ('ai_interactions', NULL), ('recent_interactions', NULL), ('ai_usage_stats', NULL), ('agent_metrics', NULL),
            ('update_daily_usage_stats', 'date'), ('get_agent_usage_summary', 'uuid, integer')) AS w (name, arguments) LOOP
        IF EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname = n.name)
           OR EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = 'public'::regnamespace AND t.typname = n.name)
           OR EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.proname = n.name) THEN
            INSERT INTO agentapi.facts (name, value) VALUES (n.name, 'theirs');
            IF n.arguments IS NOT NULL THEN
                EXECUTE format('DROP FUNCTION agentapi.%I(%s)', n.name, n.arguments);
            END IF;
            CONTINUE;
        END IF;
        INSERT INTO agentapi.facts (name, value) VALUES (n.name, 'ours');
        IF n.arguments IS NOT NULL THEN
            EXECUTE format('ALTER FUNCTION agentapi.%I(%s) SET SCHEMA public', n.name, n.arguments);
            CONTINUE;
        END IF;
        EXECUTE format('CREATE VIEW public.%1$I WITH (security_invoker = true) AS SELECT * FROM agentapi.%1$I', n.name);
        EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated, service_role', n.name);
        EXECUTE format('GRANT SELECT ON public.%I TO authenticated', n.name);
        IF n.name = 'ai_interactions' THEN
            GRANT INSERT, UPDATE, DELETE ON public.ai_interactions TO authenticated;
            CREATE TRIGGER write_interaction INSTEAD OF INSERT OR UPDATE OR DELETE ON public.ai_interactions
                FOR EACH ROW EXECUTE FUNCTION agentapi.write_interaction();
        END IF;
    END LOOP;
END
$$;


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
