-- needs: 0.1.0
-- The tables as they are deployed elsewhere, where they are missing. What is there already keeps its columns, triggers
-- and indexes; it gets the two indexes that the program's order needs, and views that show each reader his own rows.
INSERT INTO agentapi.facts (name, value)
SELECT w, 'ours'
  FROM unnest(ARRAY['profiles', 'organizations', 'organization_members', 'mcp_sessions', 'agents', 'models',
                    'chat_sessions', 'chat_messages', 'agent_health', 'v_recent_sessions', 'v_agent_status']) AS w
 WHERE to_regclass('public.' || w) IS NULL;

CREATE TABLE IF NOT EXISTS public.profiles (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text,
    full_name text,
    workos_id text UNIQUE,
    current_organization_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.organizations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    settings jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.organization_members (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    role text NOT NULL DEFAULT 'member',
    permissions jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, user_id)
);

CREATE TABLE IF NOT EXISTS public.mcp_sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    session_id text NOT NULL UNIQUE,
    mcp_state jsonb NOT NULL DEFAULT '{}',
    oauth_data jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.agents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL UNIQUE,
    type varchar(50) NOT NULL,
    description text,
    enabled boolean NOT NULL DEFAULT true,
    config jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.models (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id uuid NOT NULL REFERENCES public.agents (id) ON DELETE CASCADE,
    name varchar(255) NOT NULL,
    display_name varchar(255),
    description text,
    provider varchar(100) NOT NULL,
    model_id varchar(255) NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    config jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (agent_id, name)
);

CREATE TABLE IF NOT EXISTS public.chat_sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    org_id uuid REFERENCES public.organizations (id) ON DELETE CASCADE,
    model_id uuid REFERENCES public.models (id) ON DELETE SET NULL,
    agent_id uuid REFERENCES public.agents (id) ON DELETE SET NULL,
    title varchar(255),
    metadata jsonb NOT NULL DEFAULT '{}',
    last_message_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.chat_messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id uuid NOT NULL REFERENCES public.chat_sessions (id) ON DELETE CASCADE,
    role varchar(50) NOT NULL,
    content text NOT NULL,
    tokens_in integer,
    tokens_out integer,
    tokens_total integer,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.agent_health (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id uuid NOT NULL UNIQUE REFERENCES public.agents (id) ON DELETE CASCADE,
    status varchar(50) NOT NULL DEFAULT 'healthy',
    last_check timestamptz,
    last_error text,
    consecutive_failures integer NOT NULL DEFAULT 0,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE
    t text;
BEGIN
    IF to_regprocedure('public.update_updated_at_column()') IS NULL THEN
        CREATE FUNCTION public.update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.updated_at = now(); RETURN NEW; END';
    END IF;
    FOREACH t IN ARRAY ARRAY['profiles', 'organizations', 'organization_members', 'mcp_sessions', 'agents', 'models',
                             'chat_sessions', 'agent_health'] LOOP
        IF EXISTS (SELECT FROM agentapi.facts WHERE name = t AND value = 'ours') THEN
            EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE ON public.%I FOR EACH ROW '
                           'EXECUTE FUNCTION public.update_updated_at_column()', 'update_' || t || '_updated_at', t);
        END IF;
    END LOOP;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'organization_members' AND value = 'ours') THEN
        CREATE INDEX idx_organization_members_user ON public.organization_members (user_id);
    END IF;
END
$$;
CREATE INDEX agentapi_messages_order ON public.chat_messages (session_id, created_at, id);
CREATE INDEX agentapi_sessions_order
    ON public.chat_sessions (user_id, org_id, (coalesce(last_message_at, created_at)), id);

-- Names without the rest: whoever may see a session may know what answered in it, and needs no right to `config`.
CREATE VIEW agentapi.agent_names AS SELECT id, name FROM public.agents;
CREATE VIEW agentapi.model_names AS SELECT id, name FROM public.models;

DO $$
BEGIN
    IF to_regclass('public.v_recent_sessions') IS NOT NULL THEN
        ALTER VIEW public.v_recent_sessions SET (security_invoker = true);
    ELSE
        CREATE VIEW public.v_recent_sessions WITH (security_invoker = true) AS
            SELECT s.id, s.user_id, s.org_id, s.title, s.last_message_at, s.created_at, m.name AS model_name,
                   m.provider, a.name AS agent_name, a.type AS agent_type,
                   (SELECT count(*) FROM public.chat_messages c WHERE c.session_id = s.id) AS message_count
              FROM public.chat_sessions s
              LEFT JOIN public.models m ON m.id = s.model_id
              LEFT JOIN public.agents a ON a.id = s.agent_id
             ORDER BY s.last_message_at DESC NULLS LAST;
    END IF;
    IF to_regclass('public.v_agent_status') IS NOT NULL THEN
        ALTER VIEW public.v_agent_status SET (security_invoker = true);
    ELSE
        CREATE VIEW public.v_agent_status WITH (security_invoker = true) AS
            SELECT a.id, a.name, a.type, a.enabled, h.status AS health_status, h.last_check, h.consecutive_failures,
                   (SELECT count(*) FROM public.models m WHERE m.agent_id = a.id AND m.enabled) AS model_count
              FROM public.agents a
              LEFT JOIN public.agent_health h ON h.agent_id = a.id;
    END IF;
END
$$;
