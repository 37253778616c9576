-- The AgentAPI tables and views as they are deployed, with their seeds and old conversations; run by the owner.
CREATE TABLE public.agents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL UNIQUE,
    type varchar(50) NOT NULL,
    description text,
    enabled boolean DEFAULT true,
    config jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE TABLE public.models (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id uuid REFERENCES public.agents (id) ON DELETE CASCADE,
    name varchar(255) NOT NULL,
    display_name varchar(255),
    description text,
    provider varchar(100),
    model_id varchar(255),
    enabled boolean DEFAULT true,
    config jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now(),
    UNIQUE (agent_id, name)
);
CREATE TABLE public.chat_sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid REFERENCES public.profiles (id),
    org_id uuid REFERENCES public.organizations (id),
    model_id uuid REFERENCES public.models (id) ON DELETE SET NULL,
    agent_id uuid REFERENCES public.agents (id) ON DELETE SET NULL,
    title varchar(255),
    metadata jsonb DEFAULT '{}',
    last_message_at timestamptz,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE TABLE public.chat_messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id uuid REFERENCES public.chat_sessions (id) ON DELETE CASCADE,
    role varchar(50) NOT NULL,
    content text,
    tokens_in integer,
    tokens_out integer,
    tokens_total integer,
    metadata jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now()
);
CREATE TABLE public.agent_health (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id uuid UNIQUE REFERENCES public.agents (id) ON DELETE CASCADE,
    status varchar(50) DEFAULT 'healthy',
    last_check timestamptz,
    last_error text,
    consecutive_failures integer DEFAULT 0,
    metadata jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE TRIGGER update_agents_updated_at BEFORE UPDATE ON public.agents
    FOR EACH ROW EXECUTE FUNCTION public.update_updated_at_column();
CREATE TRIGGER update_models_updated_at BEFORE UPDATE ON public.models
    FOR EACH ROW EXECUTE FUNCTION public.update_updated_at_column();
CREATE TRIGGER update_chat_sessions_updated_at BEFORE UPDATE ON public.chat_sessions
    FOR EACH ROW EXECUTE FUNCTION public.update_updated_at_column();
CREATE TRIGGER update_agent_health_updated_at BEFORE UPDATE ON public.agent_health
    FOR EACH ROW EXECUTE FUNCTION public.update_updated_at_column();
CREATE INDEX idx_agents_enabled ON public.agents (enabled);
CREATE INDEX idx_agents_type ON public.agents (type);
CREATE INDEX idx_models_agent_id ON public.models (agent_id);
CREATE INDEX idx_models_enabled ON public.models (enabled);
CREATE INDEX idx_models_provider ON public.models (provider);
CREATE INDEX idx_chat_sessions_user_org ON public.chat_sessions (user_id, org_id);
CREATE INDEX idx_chat_sessions_agent_id ON public.chat_sessions (agent_id);
CREATE INDEX idx_chat_sessions_created_at ON public.chat_sessions (created_at);
CREATE INDEX idx_chat_messages_session_id ON public.chat_messages (session_id);
CREATE INDEX idx_chat_messages_role ON public.chat_messages (role);
CREATE INDEX idx_chat_messages_created_at ON public.chat_messages (created_at);
CREATE INDEX idx_agent_health_status ON public.agent_health (status);
CREATE VIEW public.v_recent_sessions AS
    SELECT s.id, s.user_id, s.org_id, s.title, s.last_message_at, m.name AS model_name, a.name AS agent_name,
           (SELECT count(*) FROM public.chat_messages c WHERE c.session_id = s.id) AS message_count
      FROM public.chat_sessions s
      LEFT JOIN public.models m ON m.id = s.model_id
      LEFT JOIN public.agents a ON a.id = s.agent_id
     ORDER BY s.last_message_at DESC;
CREATE VIEW public.v_agent_status AS
    SELECT a.id, a.name, a.type, a.enabled, h.status, h.last_check, h.consecutive_failures,
           (SELECT count(*) FROM public.models m WHERE m.agent_id = a.id) AS model_count
      FROM public.agents a LEFT JOIN public.agent_health h ON h.agent_id = a.id;

INSERT INTO public.agents (id, name, type, description, config) VALUES
    ('3d2c9d0a-7b46-4f57-8a0e-5f1f1d2c3b21', 'ccrouter', 'ccrouter', 'VertexAI/Gemini routing',
     '{"provider": "vertex-ai", "location": "us-central1", "auth": "application-default"}'),
    ('9f8e7d6c-5b4a-4392-8171-605f4e3d2c22', 'droid', 'droid', 'Multi-model via OpenRouter',
     '{"provider": "openrouter", "api_key": "sk-left-in-a-row"}');
INSERT INTO public.models (agent_id, name, provider, model_id)
SELECT a.id, m.name, m.provider, m.model_id
  FROM (VALUES ('ccrouter', 'gemini-1.5-pro', 'google', 'gemini-1.5-pro'),
               ('ccrouter', 'gemini-1.5-flash', 'google', 'gemini-1.5-flash'),
               ('ccrouter', 'gemini-2.0-pro', 'google', 'gemini-2.0-pro'),
               ('droid', 'claude-3-opus', 'anthropic', 'anthropic/claude-3-opus'),
               ('droid', 'claude-3-5-sonnet', 'anthropic', 'anthropic/claude-3.5-sonnet'),
               ('droid', 'gpt-4-turbo', 'openai', 'openai/gpt-4-turbo'),
               ('droid', 'gpt-4o', 'openai', 'openai/gpt-4o')) AS m (agent, name, provider, model_id)
  JOIN public.agents a ON a.name = m.agent;
INSERT INTO public.agent_health (agent_id, status) SELECT id, 'healthy' FROM public.agents;

INSERT INTO public.chat_sessions (id, user_id, org_id, agent_id, model_id, title, metadata, last_message_at, created_at)
SELECT 'd4f7a1b2-0c3e-4d5f-8a6b-7c8d9e0f1a31', '6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01',
       'b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10', a.id, m.id, 'Rocket fuel', '{"temperature": 0.2}',
       '2025-03-01 10:00:03+00', '2025-03-01 10:00:00+00'
  FROM public.agents a JOIN public.models m ON m.agent_id = a.id AND m.name = 'gpt-4o' WHERE a.name = 'droid';
INSERT INTO public.chat_sessions (id, user_id, org_id, title, metadata, last_message_at, created_at) VALUES
    ('14c0ffee-8d2a-4b7c-9e1f-2a3b4c5d6e32', '6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01',
     'b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10', NULL, '[]', NULL, '2025-02-01 09:00:00+00'),
    ('77e6d5c4-b3a2-4190-8f7e-6d5c4b3a2133', '0c9be6a4-31cf-4d86-9a55-3b1f0a9c6e02',
     'b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10', 'Bob alone', NULL, '2025-03-02 10:00:00+00', '2025-03-02 10:00:00+00');
INSERT INTO public.chat_messages (id, session_id, role, content, tokens_in, tokens_out, tokens_total, metadata, created_at)
VALUES
    ('f0000000-0000-4000-8000-000000000001', 'd4f7a1b2-0c3e-4d5f-8a6b-7c8d9e0f1a31', 'system', 'Be brief.', NULL, NULL,
     NULL, NULL, '2025-03-01 10:00:00+00'),
    ('e0000000-0000-4000-8000-000000000002', 'd4f7a1b2-0c3e-4d5f-8a6b-7c8d9e0f1a31', 'user', 'Which fuel?', NULL, NULL,
     NULL, '{}', '2025-03-01 10:00:01+00'),
    ('d0000000-0000-4000-8000-000000000003', 'd4f7a1b2-0c3e-4d5f-8a6b-7c8d9e0f1a31', 'assistant', 'Kerosene.', 12, 3, 15,
     '{}', '2025-03-01 10:00:02+00'),
    ('c0000000-0000-4000-8000-000000000004', 'd4f7a1b2-0c3e-4d5f-8a6b-7c8d9e0f1a31', 'tool', 'price: 2', NULL, NULL, NULL,
     '[1]', '2025-03-01 10:00:03+00'),
    ('a0000000-0000-4000-8000-000000000005', 'd4f7a1b2-0c3e-4d5f-8a6b-7c8d9e0f1a31', 'function', 'price: 1', NULL, NULL,
     NULL, NULL, '2025-03-01 10:00:03+00'),
    ('b0000000-0000-4000-8000-000000000006', 'd4f7a1b2-0c3e-4d5f-8a6b-7c8d9e0f1a31', 'assistant', NULL, NULL, NULL, NULL,
     NULL, '2025-03-01 10:00:03+00'),
    ('10000000-0000-4000-8000-000000000007', '14c0ffee-8d2a-4b7c-9e1f-2a3b4c5d6e32', 'user', 'Hello?', NULL, NULL, NULL,
     NULL, '2025-02-01 09:00:00+00'),
    ('20000000-0000-4000-8000-000000000008', '77e6d5c4-b3a2-4190-8f7e-6d5c4b3a2133', 'user', 'Only for Bob', NULL, NULL,
     NULL, NULL, '2025-03-02 10:00:00+00');
