-- needs: 0.1.0
-- Tasks of MCP's extension io.modelcontextprotocol/tasks: each is one call's waiting for a turn, whose row is its state.

-- joined, has_key, in_session  how the call got the turn, which its result says
-- result                       of a call that ended before its turn did, as JSON; else the turn has the result
CREATE TABLE agentapi.tasks (
    id text PRIMARY KEY CHECK (length(id) >= 22),
    turn_id uuid NOT NULL REFERENCES agentapi.turns (id) ON DELETE CASCADE,
    user_id uuid NOT NULL,
    org_id uuid NOT NULL,
    joined boolean NOT NULL,
    has_key boolean NOT NULL,
    in_session boolean NOT NULL,
    result text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    concluded_at timestamptz,
    expires_at timestamptz NOT NULL,
    CHECK ((result IS NULL) = (concluded_at IS NULL))
);
CREATE INDEX agentapi_tasks_turn ON agentapi.tasks (turn_id);
CREATE INDEX agentapi_tasks_user ON agentapi.tasks (user_id, org_id, created_at, id);
CREATE INDEX agentapi_tasks_expires ON agentapi.tasks (expires_at);

ALTER TABLE agentapi.tasks ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON agentapi.tasks FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT (id, turn_id, user_id, org_id, joined, has_key, in_session, result, created_at, concluded_at, expires_at)
    ON agentapi.tasks TO authenticated;
GRANT SELECT, INSERT, DELETE, UPDATE (result, concluded_at) ON agentapi.tasks TO agentapi_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON agentapi.tasks TO agentapi_system;
CREATE POLICY agentapi_system ON agentapi.tasks TO agentapi_system USING (true) WITH CHECK (true);

-- A pair, which no index serves, as for turns: the program's statements name a task.
CREATE POLICY agentapi_own ON agentapi.tasks FOR SELECT TO authenticated
    USING ((user_id, org_id) IN (SELECT auth.uid(), o FROM unnest(agentapi.own_organization_ids()) AS o)
           AND ((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see())));
CREATE POLICY agentapi_writer_read ON agentapi.tasks FOR SELECT TO agentapi_writer
    USING ((user_id, org_id) IN (SELECT auth.uid(), agentapi.bound_organization()));
-- Of a turn that its user may read: the foreign key alone would let anybody's be named.
CREATE POLICY agentapi_writer_new ON agentapi.tasks FOR INSERT TO agentapi_writer
    WITH CHECK (user_id = (SELECT auth.uid()) AND org_id = (SELECT agentapi.bound_organization())
                AND (SELECT agentapi.may_chat()) AND EXISTS (SELECT FROM agentapi.turns t WHERE t.id = turn_id));
-- A call that ends before its turn is its caller's own, who need not be allowed to send another.
CREATE POLICY agentapi_writer_change ON agentapi.tasks FOR UPDATE TO agentapi_writer
    USING ((user_id, org_id) IN (SELECT auth.uid(), agentapi.bound_organization()));
CREATE POLICY agentapi_writer_drop ON agentapi.tasks FOR DELETE TO agentapi_writer
    USING ((user_id, org_id) IN (SELECT auth.uid(), agentapi.bound_organization()) AND (SELECT agentapi.may_chat()));
