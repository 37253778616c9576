-- needs: 0.1.0
-- With the bytes of the messages of each session, which lists of transcripts say. Postgres knows the length of a long
-- text without reading it, and a query that does not ask for it does not pay for it.
CREATE OR REPLACE VIEW agentapi.own_message_counts WITH (security_barrier = true) AS
SELECT s.id AS session_id, (SELECT count(*) FROM public.chat_messages c WHERE c.session_id = s.id) AS messages,
       (SELECT coalesce(sum(octet_length(c.content)), 0) FROM public.chat_messages c WHERE c.session_id = s.id) AS bytes
  FROM public.chat_sessions s
 WHERE s.user_id = (SELECT auth.uid()) AND s.org_id = ANY ((SELECT agentapi.own_organization_ids())::uuid[])
   AND ((SELECT agentapi.bound_organization()) IS NULL OR (SELECT agentapi.may_see()));
