-- needs: 0.1.0
-- First assert what must be there and of which type, where a table exists already; then create what is missing.
DO $$
DECLARE
    misfits text;
BEGIN
    SELECT string_agg(format('public.%s.%s must be %s, it is %s', w.t, w.c, w.kind, coalesce(c.data_type, 'missing')), '; ')
      INTO misfits
      FROM (VALUES
        ('profiles', 'id', 'uuid'), ('organizations', 'id', 'uuid'), ('organizations', 'settings', 'jsonb'),
        ('organization_members', 'user_id', 'uuid'), ('organization_members', 'organization_id', 'uuid'),
        ('mcp_sessions', 'user_id', 'uuid'), ('mcp_sessions', 'session_id', 'text'), ('mcp_sessions', 'mcp_state', 'jsonb'),
        ('agents', 'id', 'uuid'), ('agents', 'name', 'character varying'), ('agents', 'type', 'character varying'),
        ('agents', 'config', 'jsonb'), ('models', 'id', 'uuid'), ('models', 'agent_id', 'uuid'), ('models', 'config', 'jsonb'),
        ('chat_sessions', 'id', 'uuid'), ('chat_sessions', 'user_id', 'uuid'), ('chat_sessions', 'org_id', 'uuid'),
        ('chat_sessions', 'metadata', 'jsonb'), ('chat_messages', 'id', 'uuid'), ('chat_messages', 'session_id', 'uuid'),
        ('chat_messages', 'content', 'text'), ('chat_messages', 'created_at', 'timestamp with time zone'),
        ('agent_health', 'agent_id', 'uuid')
      ) AS w (t, c, kind)
      LEFT JOIN information_schema.columns c
        ON c.table_schema = 'public' AND c.table_name = w.t AND c.column_name = w.c
     WHERE to_regclass('public.' || w.t) IS NOT NULL AND c.data_type IS DISTINCT FROM w.kind;
    IF misfits IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = 'the existing tables do not fit: ' || misfits;
    END IF;
    IF to_regclass('public.profiles') IS NULL THEN
        INSERT INTO agentapi.facts (name, value) VALUES ('profiles', 'ours');
    END IF;
END
$$;

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
        IF NOT EXISTS (SELECT FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
                        WHERE g.tgrelid = ('public.' || t)::regclass AND NOT g.tgisinternal
                          AND p.proname = 'update_updated_at_column')
           AND EXISTS (SELECT FROM information_schema.columns
                        WHERE table_schema = 'public' AND table_name = t AND column_name = 'updated_at') THEN
            EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE ON public.%I FOR EACH ROW '
                           'EXECUTE FUNCTION public.update_updated_at_column()', 'update_' || t || '_updated_at', t);
        END IF;
    END LOOP;
END
$$;

CREATE INDEX IF NOT EXISTS idx_models_agent_id ON public.models (agent_id);
CREATE INDEX IF NOT EXISTS idx_organization_members_user ON public.organization_members (user_id);
CREATE INDEX IF NOT EXISTS agentapi_messages_order ON public.chat_messages (session_id, created_at, id);
CREATE INDEX IF NOT EXISTS agentapi_sessions_order
    ON public.chat_sessions (user_id, org_id, (coalesce(last_message_at, created_at)), id);

DO $$
BEGIN
    IF to_regclass('public.v_recent_sessions') IS NULL THEN
        CREATE VIEW public.v_recent_sessions WITH (security_invoker = true) AS
            SELECT s.id, s.user_id, s.org_id, s.title, s.last_message_at, s.created_at, m.name AS model_name,
                   m.provider, a.name AS agent_name, a.type AS agent_type,
                   (SELECT count(*) FROM public.chat_messages c WHERE c.session_id = s.id) AS message_count
              FROM public.chat_sessions s
              LEFT JOIN public.models m ON m.id = s.model_id
              LEFT JOIN public.agents a ON a.id = s.agent_id
             ORDER BY s.last_message_at DESC NULLS LAST;
    END IF;
    IF to_regclass('public.v_agent_status') IS NULL THEN
        CREATE VIEW public.v_agent_status WITH (security_invoker = true) AS
            SELECT a.id, a.name, a.type, a.enabled, h.status AS health_status, h.last_check, h.consecutive_failures,
                   (SELECT count(*) FROM public.models m WHERE m.agent_id = a.id AND m.enabled) AS model_count
              FROM public.agents a
              LEFT JOIN public.agent_health h ON h.agent_id = a.id;
    END IF;
END
$$;
