-- needs: 0.1.0
-- Openings: how a session's first message begins, so that a search reads no whole messages; and what lets the rows of a
-- user's clients be found.
DO $$
BEGIN
    IF to_regclass('public.agentapi_mcp_sessions_user') IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The database does not fit, seen as the login %s: there is something named '
            'public.agentapi_mcp_sessions_user, a name that the program needs', current_user);
    END IF;
END
$$;

-- It ends with its message, and so with its session.
CREATE TABLE agentapi.session_openings (
    session_id uuid PRIMARY KEY,
    message_id uuid NOT NULL UNIQUE REFERENCES public.chat_messages (id) ON DELETE CASCADE,
    opening text NOT NULL
);
ALTER TABLE agentapi.session_openings ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON agentapi.session_openings FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, INSERT ON agentapi.session_openings TO agentapi_system;
CREATE POLICY agentapi_system ON agentapi.session_openings TO agentapi_system USING (true) WITH CHECK (true);

-- Kept by whatever begins a turn, other versions of the program too. Sessions of before, and of other programs, get theirs
-- by their next turn or by a job. SECURITY DEFINER: no user's role writes this table.
CREATE FUNCTION agentapi.keep_opening() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$function$
BEGIN
    IF NOT EXISTS (SELECT FROM agentapi.session_openings o WHERE o.session_id = NEW.session_id) THEN
        INSERT INTO agentapi.session_openings (session_id, message_id, opening)
        SELECT c.session_id, c.id, coalesce(left(c.content, 500), '')
          FROM public.chat_messages c WHERE c.session_id = NEW.session_id ORDER BY c.created_at, c.id LIMIT 1
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$function$;
REVOKE ALL ON FUNCTION agentapi.keep_opening() FROM PUBLIC, anon, authenticated, service_role;
CREATE TRIGGER keep_opening AFTER INSERT ON agentapi.turns FOR EACH ROW EXECUTE FUNCTION agentapi.keep_opening();

-- The opening of each session that its reader may see, for the search. The message itself is looked at where none is
-- kept yet: `left` reads its first pages only. As in own_message_counts, the session is looked
-- up once, where a policy would look it up for each message.
CREATE VIEW agentapi.own_openings WITH (security_barrier = true) AS
SELECT s.id AS session_id,
       coalesce((SELECT o.opening FROM agentapi.session_openings o WHERE o.session_id = s.id),
                (SELECT left(c.content, 500) FROM public.chat_messages c WHERE c.session_id = s.id
                  ORDER BY c.created_at, c.id LIMIT 1)) AS opening
  FROM public.chat_sessions s
 WHERE s.user_id = (SELECT auth.uid()) AND s.org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
   AND ((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see()));
REVOKE ALL ON agentapi.own_openings FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON agentapi.own_openings TO authenticated;

-- For the bounds of a user's rows of clients, and for their list.
CREATE INDEX agentapi_mcp_sessions_user ON public.mcp_sessions (user_id, expires_at);
