-- needs: 0.1.0
-- What the front end of an organisation expects of a Supabase project: in tables of our own, its columns, the rights of
-- service_role, and rows that a signed-in user may read. Which columns authenticated may read is set after each run of
-- the migrations (front_ends.py), since it depends on the rows.

-- 1. Columns of profiles and organizations.
DO $$
BEGIN
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'profiles' AND value = 'ours') THEN
        ALTER TABLE public.profiles
            ADD COLUMN status text NOT NULL DEFAULT 'active',
            ADD COLUMN avatar_url text,
            ADD COLUMN preferences jsonb NOT NULL DEFAULT '{}',
            ADD COLUMN last_login_at timestamptz;
    END IF;
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'organizations' AND value = 'ours') THEN
        ALTER TABLE public.organizations
            ADD COLUMN slug text,
            ADD COLUMN is_deleted boolean NOT NULL DEFAULT false;
    END IF;
END
$$;

-- The part of an address that a name becomes: "Crème & Co." is creme-co.
CREATE FUNCTION agentapi.slug_of(name text) RETURNS text LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    IF getdatabaseencoding() = 'UTF8' THEN
        name := regexp_replace(normalize(name, NFKD), '[\u0300-\u036f]', '', 'g');
    END IF;
    name := trim(BOTH '-' FROM left(trim(BOTH '-' FROM regexp_replace(lower(name), '[^a-z0-9]+', '-', 'g')), 60));
    RETURN coalesce(nullif(name, ''), 'organization');
END
$function$;

-- Gives a new organisation a slug, if it has none; a later name leaves it as it is, since addresses contain it. The second
-- organisation of a name gets a part of its id. SECURITY DEFINER: it must see the slugs of all organisations.
CREATE FUNCTION agentapi.set_slug() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS
$function$
DECLARE
    wanted CONSTANT text := agentapi.slug_of(NEW.name);
BEGIN
    -- Of two organisations that are made at once, the second waits for the first one's slug.
    PERFORM FROM agentapi.facts WHERE name = 'organizations' FOR UPDATE;
    NEW.slug := wanted;
    FOR length IN 2..8 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM public.organizations o WHERE o.slug = NEW.slug);
        NEW.slug := wanted || '-' || left(encode(sha256(uuid_send(NEW.id)), 'hex'), 4 * length - 2);
    END LOOP;
    RETURN NEW;
END
$function$;

-- Notes that a user signed in, at most once in ten minutes; nothing where another application manages the profiles.
CREATE FUNCTION agentapi.note_sign_in(p_user uuid) RETURNS void LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    IF current_setting('transaction_read_only') = 'off'
       AND EXISTS (SELECT FROM agentapi.facts WHERE name = 'profiles' AND value = 'ours') THEN
        -- Without waiting: a request at the same time notes it.
        UPDATE public.profiles SET last_login_at = now()
         WHERE id = (SELECT p.id FROM public.profiles p
                      WHERE p.id = p_user
                        AND (p.last_login_at IS NULL OR p.last_login_at < now() - interval '10 minutes')
                        FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
END
$function$;

REVOKE ALL ON FUNCTION agentapi.slug_of(text), agentapi.set_slug(), agentapi.note_sign_in(uuid)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION agentapi.note_sign_in(uuid) TO agentapi_system;

DO $$
DECLARE
    org record;
BEGIN
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'organizations' AND value = 'ours') THEN
        ALTER TABLE public.organizations DISABLE TRIGGER update_organizations_updated_at;
        FOR org IN SELECT id, agentapi.slug_of(name) AS slug FROM public.organizations ORDER BY created_at, id LOOP
            UPDATE public.organizations SET slug = org.slug || CASE
                   WHEN EXISTS (SELECT FROM public.organizations o WHERE o.slug = org.slug)
                   THEN '-' || encode(sha256(uuid_send(org.id)), 'hex') ELSE '' END
             WHERE id = org.id;
        END LOOP;
        ALTER TABLE public.organizations ENABLE TRIGGER update_organizations_updated_at;
        ALTER TABLE public.organizations
            ALTER COLUMN slug SET NOT NULL,
            ADD CONSTRAINT organizations_slug_key UNIQUE (slug);
        CREATE TRIGGER agentapi_slug BEFORE INSERT ON public.organizations
            FOR EACH ROW WHEN (NEW.slug IS NULL) EXECUTE FUNCTION agentapi.set_slug();
    END IF;
END
$$;


-- 2. Rights in tables of our own. Supabase's service_role bypasses row-level security; where a migration made that role,
--    it could not give it this attribute, so a policy does the same.
GRANT USAGE ON SCHEMA public TO service_role;
DO $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT c.relname AS name, c.relkind AS kind
               FROM agentapi.facts f JOIN pg_class c ON c.relname = f.name AND c.relnamespace = 'public'::regnamespace
              WHERE f.value = 'ours' ORDER BY c.relname LOOP
        EXECUTE format('GRANT ALL ON public.%I TO service_role', t.name);
        IF t.kind = 'v' THEN
            EXECUTE format('GRANT SELECT ON public.%I TO authenticated', t.name);
        ELSE
            EXECUTE format('CREATE POLICY agentapi_service ON public.%I TO service_role USING (true) WITH CHECK (true)',
                           t.name);
            -- All columns, unless a secret is found in one.
            INSERT INTO agentapi.facts (name, value) VALUES ('columns of ' || t.name, '*');
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'organizations' AND value = 'ours') THEN
        CREATE POLICY agentapi_own ON public.organizations FOR SELECT TO authenticated
            USING (id = ANY ((SELECT agentapi.own_organization_ids())::uuid[]));
    END IF;
    IF EXISTS (SELECT FROM agentapi.facts WHERE name = 'organization_members' AND value = 'ours') THEN
        CREATE POLICY agentapi_own ON public.organization_members FOR SELECT TO authenticated
            USING (user_id = (SELECT auth.uid()) AND organization_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[]));
    END IF;
END
$$;


-- 3. An mcp_sessions that was there without row-level security: signed-in users read their own rows, which now are the
--    program's too. For every other role nothing changes.
DO $$
BEGIN
    IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = 'public.mcp_sessions'::regclass) THEN
        CREATE POLICY agentapi_others ON public.mcp_sessions USING (true) WITH CHECK (true);
        CREATE POLICY agentapi_bound ON public.mcp_sessions AS RESTRICTIVE TO anon, authenticated
            USING (user_id = (SELECT auth.uid()));
        ALTER TABLE public.mcp_sessions ENABLE ROW LEVEL SECURITY;
    END IF;
END
$$;
