-- needs: 0.1.0
-- What users say of their conversations: of what kind they are, tags, ratings, archived or not; and what happened
-- elsewhere. And the words for it: providers, features, kinds of interactions.

-- 1. Words. Everybody reads them; rows are added by the operator and by back ends with service_role, for every
--    organisation alike. Nothing refers to them by a foreign key: an id that is not there is shown as it is.
-- id         as the program compares providers: lower case, no blanks around it
-- base_url   shown only; no request is ever sent there because of it
-- added_at   null for those that are shipped
CREATE TABLE agentapi.providers (
    id text PRIMARY KEY CHECK (id = lower(btrim(id)) AND length(id) BETWEEN 1 AND 100),
    name text NOT NULL,
    description text,
    auth_type text NOT NULL DEFAULT 'api_key' CHECK (auth_type IN ('api_key', 'oauth', 'bearer_token', 'none')),
    base_url text,
    is_active boolean NOT NULL DEFAULT true,
    added_at timestamptz DEFAULT clock_timestamp()
);
CREATE TABLE agentapi.terms (
    kind text NOT NULL CHECK (kind IN ('feature', 'interaction_type')),
    id text NOT NULL CHECK (id = lower(btrim(id)) AND length(id) BETWEEN 1 AND 100),
    name text NOT NULL,
    description text,
    category text,
    icon text,
    color text,
    is_active boolean NOT NULL DEFAULT true,
    sort_order integer NOT NULL DEFAULT 0,
    added_at timestamptz DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, id)
);
INSERT INTO agentapi.providers (id, name, description, auth_type, base_url) VALUES
    ('anthropic', 'Anthropic', 'Claude models', 'api_key', 'https://api.anthropic.com'),
    ('azure', 'Azure OpenAI', 'OpenAI''s models in one''s own Azure', 'api_key', NULL),
    ('cohere', 'Cohere', 'Command models', 'api_key', 'https://api.cohere.com'),
    ('deepseek', 'DeepSeek', 'DeepSeek models', 'api_key', 'https://api.deepseek.com/v1'),
    ('elevenlabs', 'ElevenLabs', 'Voice synthesis', 'api_key', 'https://api.elevenlabs.io'),
    ('google', 'Google AI', 'Gemini models', 'api_key', 'https://generativelanguage.googleapis.com'),
    ('groq', 'Groq', 'Open models', 'api_key', 'https://api.groq.com/openai/v1'),
    ('huggingface', 'Hugging Face', 'Model hub', 'bearer_token', 'https://router.huggingface.co/v1'),
    ('mistral', 'Mistral', 'Mistral models', 'api_key', 'https://api.mistral.ai/v1'),
    ('openai', 'OpenAI', 'GPT models, DALL-E, Whisper', 'api_key', 'https://api.openai.com/v1'),
    ('openrouter', 'OpenRouter', 'Models of many providers', 'api_key', 'https://openrouter.ai/api/v1'),
    ('perplexity', 'Perplexity', 'AI with search', 'api_key', 'https://api.perplexity.ai'),
    ('replicate', 'Replicate', 'Open source models', 'bearer_token', 'https://api.replicate.com/v1'),
    ('stability', 'Stability AI', 'Image generation', 'api_key', 'https://api.stability.ai'),
    ('together', 'Together AI', 'Open source language models', 'api_key', 'https://api.together.xyz/v1'),
    ('vertex-ai', 'Vertex AI', 'Models in Google Cloud', 'oauth', NULL),
    ('xai', 'xAI', 'Grok models', 'api_key', 'https://api.x.ai/v1');
INSERT INTO agentapi.terms (kind, id, name, description, category, icon, color, sort_order) VALUES
    ('feature', 'brainstorming', 'Brainstorming', 'Creative ideation', 'creative', 'lightbulb', NULL, 1),
    ('feature', 'daily_qa', 'Daily Q&A', 'General assistance', 'general', 'message-circle', NULL, 2),
    ('feature', 'coding', 'Coding', 'Programming assistance', 'technical', 'code', NULL, 3),
    ('feature', 'mcp', 'MCP', 'Model Context Protocol', 'technical', 'plug', NULL, 4),
    ('feature', 'news_search', 'News Search', 'Current events', 'research', 'newspaper', NULL, 5),
    ('feature', 'tts_stt', 'TTS/STT', 'Voice processing', 'media', 'mic', NULL, 6),
    ('feature', 'image_generation', 'Image Generation', 'Visual content', 'media', 'image', NULL, 7),
    ('feature', 'analysis', 'Analysis', 'Data insights', 'technical', 'bar-chart', NULL, 8),
    ('feature', 'writing', 'Writing', 'Content creation', 'creative', 'pen', NULL, 9),
    ('feature', 'research', 'Research', 'Information gathering', 'research', 'search', NULL, 10),
    ('feature', 'translation', 'Translation', 'Language services', 'general', 'languages', NULL, 11),
    ('interaction_type', 'conversation', 'Conversation', 'Talk about anything', 'general', 'message-circle', '#3b82f6', 1),
    ('interaction_type', 'coding', 'Coding', 'Writing and reviewing code', 'technical', 'code', '#10b981', 2),
    ('interaction_type', 'brainstorming', 'Brainstorming', 'Finding ideas', 'creative', 'lightbulb', '#f59e0b', 3),
    ('interaction_type', 'writing', 'Writing', 'Writing and editing texts', 'creative', 'pen', '#8b5cf6', 4),
    ('interaction_type', 'analysis', 'Analysis', 'Making sense of data', 'technical', 'bar-chart', '#06b6d4', 5),
    ('interaction_type', 'research', 'Research', 'Gathering information', 'research', 'search', '#6366f1', 6),
    ('interaction_type', 'translation', 'Translation', 'From one language to another', 'general', 'languages', '#ec4899', 7);
UPDATE agentapi.providers SET added_at = NULL;
UPDATE agentapi.terms SET added_at = NULL;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['agentapi.providers', 'agentapi.terms'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, anon, authenticated, service_role', t);
        EXECUTE format('GRANT SELECT ON %s TO authenticated, agentapi_writer', t);
        EXECUTE format('GRANT SELECT, INSERT ON %s TO agentapi_system', t);
        EXECUTE format('GRANT ALL ON %s TO service_role', t);
        EXECUTE format('CREATE POLICY agentapi_read ON %s FOR SELECT TO authenticated, agentapi_writer USING (true)', t);
        EXECUTE format('CREATE POLICY agentapi_system ON %s TO agentapi_system USING (true) WITH CHECK (true)', t);
        EXECUTE format('CREATE POLICY agentapi_service ON %s TO service_role USING (true) WITH CHECK (true)', t);
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA agentapi TO service_role;


-- 2. What users say of conversations and of single turns. They go with them; what they said is in the sums for good.
-- interaction_type  one of agentapi.terms; turns that end from then on are counted as such
-- rating            how content they were; usefulness, how useful it was; of 5
-- recorded_at       when a conversation that happened elsewhere was recorded; null for one of this program
-- agent_elsewhere, model, provider, and reported_…  what its user says of it
-- external_id       tells recorded ones apart: one and the same is there once. Without one, external_link does
CREATE TABLE agentapi.session_facts (
    session_id uuid PRIMARY KEY REFERENCES public.chat_sessions (id) ON DELETE CASCADE,
    user_id uuid NOT NULL,
    org_id uuid NOT NULL,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'completed', 'archived')),
    interaction_type text CHECK (length(interaction_type) BETWEEN 1 AND 100),
    description text CHECK (length(description) <= 4000),
    tags text[] NOT NULL DEFAULT '{}' CHECK (cardinality(tags) <= 50 AND octet_length(tags::text) <= 20000),
    keywords text[] NOT NULL DEFAULT '{}' CHECK (cardinality(keywords) <= 50 AND octet_length(keywords::text) <= 20000),
    rating smallint CHECK (rating BETWEEN 1 AND 5),
    usefulness smallint CHECK (usefulness BETWEEN 1 AND 5),
    note text CHECK (length(note) <= 4000),
    external_link text CHECK (octet_length(external_link) <= 2000),
    external_id text CHECK (octet_length(external_id) <= 255),
    external_metadata jsonb NOT NULL DEFAULT '{}' CHECK (octet_length(external_metadata::text) <= 20000),
    content_preview text CHECK (length(content_preview) <= 4000),
    agent_elsewhere text CHECK (length(agent_elsewhere) <= 255),
    model text CHECK (length(model) <= 255),
    provider text CHECK (provider = lower(btrim(provider)) AND length(provider) <= 100),
    reported_input_tokens bigint CHECK (reported_input_tokens BETWEEN 0 AND 1000000000000),
    reported_output_tokens bigint CHECK (reported_output_tokens BETWEEN 0 AND 1000000000000),
    reported_cost_usd numeric CHECK (reported_cost_usd BETWEEN 0 AND 1000000),
    recorded_at timestamptz,
    ended_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (recorded_at IS NOT NULL OR (reported_input_tokens, reported_output_tokens, reported_cost_usd) IS NULL)
);
CREATE UNIQUE INDEX session_facts_external ON agentapi.session_facts (user_id, org_id, coalesce(external_id, external_link))
    WHERE recorded_at IS NOT NULL AND coalesce(external_id, external_link) IS NOT NULL;
CREATE INDEX session_facts_recorded ON agentapi.session_facts (user_id) WHERE recorded_at IS NOT NULL;

CREATE TABLE agentapi.turn_ratings (
    turn_id uuid PRIMARY KEY REFERENCES agentapi.turns (id) ON DELETE CASCADE,
    user_id uuid NOT NULL,
    org_id uuid NOT NULL,
    rating smallint CHECK (rating BETWEEN 1 AND 5),
    note text CHECK (length(note) <= 4000),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX turn_ratings_user ON agentapi.turn_ratings (user_id);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['agentapi.session_facts', 'agentapi.turn_ratings'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, anon, authenticated, service_role', t);
        EXECUTE format('GRANT SELECT ON %s TO authenticated, agentapi_system', t);
        EXECUTE format('GRANT SELECT, INSERT ON %s TO agentapi_writer', t);
        EXECUTE format('CREATE POLICY agentapi_system ON %s FOR SELECT TO agentapi_system USING (true)', t);
        -- A pair, which no index serves, as for turns: the statements name a session or a turn.
        EXECUTE format($policy$
            CREATE POLICY agentapi_own ON %s FOR SELECT TO authenticated
                USING ((user_id, org_id) IN (SELECT auth.uid(), o FROM unnest(agentapi.own_organization_ids()) AS o)
                       AND ((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see())))
        $policy$, t);
        EXECUTE format($policy$
            CREATE POLICY agentapi_writer_read ON %s FOR SELECT TO agentapi_writer
                USING ((user_id, org_id) IN (SELECT auth.uid(), agentapi.bound_organization()))
        $policy$, t);
        EXECUTE format($policy$
            CREATE POLICY agentapi_writer_change ON %s FOR UPDATE TO agentapi_writer
                USING ((user_id, org_id) IN (SELECT auth.uid(), agentapi.bound_organization())
                       AND (SELECT agentapi.may_edit()))
        $policy$, t);
    END LOOP;
END
$$;
GRANT UPDATE (status, interaction_type, tags, keywords, rating, usefulness, note, updated_at) ON agentapi.session_facts
    TO agentapi_writer;
GRANT UPDATE (rating, note, updated_at) ON agentapi.turn_ratings TO agentapi_writer;
-- Of what its user may read: the foreign keys alone would let anybody's be named. What happened elsewhere is recorded by
-- who may begin conversations.
CREATE POLICY agentapi_writer_new ON agentapi.session_facts FOR INSERT TO agentapi_writer
    WITH CHECK (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization())
                AND org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
                AND CASE WHEN recorded_at IS NULL THEN (SELECT agentapi.may_edit()) ELSE (SELECT agentapi.may_chat()) END
                AND EXISTS (SELECT FROM public.chat_sessions s WHERE s.id = session_id));
CREATE POLICY agentapi_writer_new ON agentapi.turn_ratings FOR INSERT TO agentapi_writer
    WITH CHECK (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization())
                AND org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[]) AND (SELECT agentapi.may_edit())
                AND EXISTS (SELECT FROM agentapi.turns t
                             WHERE t.id = turn_id AND t.status NOT IN ('running', 'input_required')));


-- 3. How much of it there may be.
-- Refuses a row that is more than a share, as check_shares does. Where many are written at the same time, they wait for
-- each other, so that no two of them take the last place.
CREATE FUNCTION agentapi.check_facts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    c_at_once CONSTANT integer := 100;
    v_what CONSTANT text := CASE TG_TABLE_NAME WHEN 'turn_ratings' THEN 'ratings' ELSE 'recorded' END;
    v_limits CONSTANT jsonb := (SELECT o.settings -> 'limits' FROM public.organizations o WHERE o.id = NEW.org_id);
    v_used numeric;
    r record;
BEGIN
    -- A rating that is replaced takes no further place.
    IF v_what = 'ratings' THEN
        IF EXISTS (SELECT FROM agentapi.turn_ratings t WHERE t.turn_id = NEW.turn_id) THEN
            RETURN NEW;
        END IF;
    END IF;
    FOR r IN
        SELECT l.whose, l.holder, l.what, (l.most #>> '{}')::numeric AS most, l.own FROM (VALUES
            ('user', NEW.user_id, v_what, to_jsonb(10000), 0),
            -- Its session is written before it.
            ('organization', NEW.org_id, 'conversations', v_limits -> 'max_conversations', 1)
        ) AS l (whose, holder, what, most, own)
         WHERE jsonb_typeof(l.most) = 'number' AND (l.whose = 'user' OR v_what = 'recorded')
    LOOP
        v_used := agentapi.facts_used(r.holder, r.whose || ' ' || r.what) - r.own;
        IF v_used + c_at_once > r.most THEN
            INSERT INTO agentapi.share_locks (holder) VALUES (r.holder) ON CONFLICT DO NOTHING;
            PERFORM FROM agentapi.share_locks l WHERE l.holder = r.holder FOR UPDATE;
            v_used := agentapi.facts_used(r.holder, r.whose || ' ' || r.what) - r.own;
        END IF;
        IF v_used + 1 > r.most THEN
            RAISE EXCEPTION USING ERRCODE = 'AA003', MESSAGE = jsonb_build_object(
                'whose', r.whose, 'what', r.what, 'most', r.most, 'used', v_used)::text;
        END IF;
    END LOOP;
    RETURN NEW;
END
$function$;
CREATE FUNCTION agentapi.facts_used(p_holder uuid, p_resource text) RETURNS numeric
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    RETURN CASE p_resource
        WHEN 'user ratings' THEN (SELECT count(*) FROM agentapi.turn_ratings r WHERE r.user_id = p_holder)
        WHEN 'user recorded' THEN (SELECT count(*) FROM agentapi.session_facts f
                                    WHERE f.user_id = p_holder AND f.recorded_at IS NOT NULL)
        ELSE agentapi.share_used(p_holder, p_resource) END;
END
$function$;
CREATE TRIGGER check_facts BEFORE INSERT ON agentapi.session_facts FOR EACH ROW
    WHEN (NEW.recorded_at IS NOT NULL) EXECUTE FUNCTION agentapi.check_facts();
CREATE TRIGGER check_facts BEFORE INSERT ON agentapi.turn_ratings FOR EACH ROW EXECUTE FUNCTION agentapi.check_facts();

REVOKE ALL ON FUNCTION agentapi.check_facts(), agentapi.facts_used(uuid, text)
    FROM PUBLIC, anon, authenticated, service_role;
