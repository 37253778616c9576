-- What a Supabase project looks like to us, run in its own database by a superuser. supabase_owner is what Supabase calls postgres.
CREATE SCHEMA auth AUTHORIZATION supabase_auth_admin;
SET ROLE supabase_auth_admin;
CREATE TABLE auth.users (
    id uuid PRIMARY KEY,
    email text UNIQUE,
    encrypted_password text,
    raw_user_meta_data jsonb,
    created_at timestamptz DEFAULT now()
);
CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS
    $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
    $$ SELECT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS
    $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' $$;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role, supabase_owner;
GRANT SELECT, REFERENCES ON auth.users TO supabase_owner;
INSERT INTO auth.users (id, email) VALUES
    ('6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01', 'alice@acme.example'),
    ('0c9be6a4-31cf-4d86-9a55-3b1f0a9c6e02', 'bob@acme.example');
RESET ROLE;

GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
SET ROLE supabase_owner;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;

CREATE FUNCTION public.update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_at = now(); RETURN NEW; END; $$;
CREATE TYPE public.member_role AS ENUM ('owner', 'admin', 'member', 'billing');

-- The four tables that were there before, with more columns than the program knows.
CREATE TABLE public.organizations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    slug text NOT NULL UNIQUE,
    name text NOT NULL,
    plan text NOT NULL DEFAULT 'free',
    settings jsonb DEFAULT '{}',
    metadata jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now()
);
CREATE TABLE public.profiles (
    id uuid PRIMARY KEY REFERENCES auth.users (id) ON DELETE CASCADE,
    email text NOT NULL,
    full_name text,
    avatar_url text,
    workos_id text UNIQUE,
    current_organization_id uuid REFERENCES public.organizations (id),
    is_banned boolean NOT NULL DEFAULT false,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE TABLE public.organization_members (
    organization_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    role public.member_role NOT NULL DEFAULT 'member',
    permissions jsonb DEFAULT '{}',
    invited_by uuid,
    joined_at timestamptz DEFAULT now(),
    PRIMARY KEY (organization_id, user_id)
);
CREATE TABLE public.mcp_sessions (
    session_id text PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES public.profiles (id),
    oauth_data jsonb NOT NULL,
    mcp_state jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE TABLE public.projects (
    id bigserial PRIMARY KEY,
    organization_id uuid REFERENCES public.organizations (id),
    title text
);
CREATE TRIGGER profiles_touch BEFORE UPDATE ON public.profiles
    FOR EACH ROW EXECUTE FUNCTION public.update_updated_at_column();
ALTER TABLE public.profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.organization_members ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Users see their profile" ON public.profiles FOR SELECT TO authenticated
    USING (id = auth.uid() AND NOT is_banned);
CREATE POLICY "Members see each other" ON public.organization_members FOR SELECT USING (user_id = auth.uid());
CREATE POLICY "Members see their organisation" ON public.organizations FOR SELECT
    USING (EXISTS (SELECT FROM public.organization_members m WHERE m.organization_id = id AND m.user_id = auth.uid()));

INSERT INTO public.organizations (id, slug, name, plan, settings) VALUES
    ('b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10', 'acme', 'Acme', 'team', '{"default_agent": "guide", "theme": "dark"}'),
    ('e0a1d4c3-5b6f-4f0a-8b2e-1a9c8d7e6f11', 'other', 'Other', 'free', NULL);
INSERT INTO public.profiles (id, email, full_name, workos_id, current_organization_id) VALUES
    ('6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01', 'alice@acme.example', 'Alice', 'user_01A',
     'b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10'),
    ('0c9be6a4-31cf-4d86-9a55-3b1f0a9c6e02', 'bob@acme.example', 'Bob', NULL, 'b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10');
INSERT INTO public.organization_members (organization_id, user_id, role) VALUES
    ('b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10', '6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01', 'owner'),
    ('b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10', '0c9be6a4-31cf-4d86-9a55-3b1f0a9c6e02', 'billing');
INSERT INTO public.mcp_sessions (session_id, user_id, oauth_data, mcp_state, expires_at) VALUES
    ('old-client', '6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01', '{"sealed": "x"}', NULL, now() + interval '1 day');
INSERT INTO public.projects (organization_id, title) VALUES ('b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10', 'Rockets');
