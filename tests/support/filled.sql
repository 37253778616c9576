-- At least one row in each table that a backup has, among them values that are easily spoilt; :user, :org and :other are ids.
INSERT INTO public.organizations (id, name, settings) VALUES (:org, 'Ours', '{"limits": {"max_running_turns": 0}}');
INSERT INTO public.profiles (id, email, full_name, current_organization_id)
    VALUES (:user, 'ann@example.com', 'Ann', :org), (:other, NULL, 'Bo', NULL);
INSERT INTO public.organization_members (organization_id, user_id, role) VALUES (:org, :user, 'owner');
INSERT INTO agentapi.local_identity (user_id, org_id) VALUES (:user, :org);
INSERT INTO agentapi.identities (issuer, subject, user_id) VALUES ('https://issuer.example', 'ann', :user);
INSERT INTO agentapi.invitations (org_id, email, role, expires_at) VALUES (:org, 'c@example.com', 'admin', 'infinity');
INSERT INTO public.agents (id, name, type, config) VALUES (:user, 'ghost', 'openai', '{"a": [1, null, "\u00e9"]}');
INSERT INTO public.models (agent_id, name, provider, model_id) VALUES (:user, 'm', 'p', 'm-1');
INSERT INTO public.agent_health (agent_id, status) VALUES (:user, 'healthy');
INSERT INTO public.mcp_sessions (user_id, session_id, oauth_data, expires_at) VALUES
    (:user, 'oauth/' || :user, '{"calendar": {"sealed": "eA==", "key_id": "old"}}', '9999-12-31'),
    (:user, 'other', '[1]', NULL);
INSERT INTO public.chat_sessions (id, user_id, org_id, agent_id, title) VALUES (:user, :user, :org, :user, $T$T$T$);
INSERT INTO public.chat_messages (id, session_id, role, content)
    VALUES (:user, :user, 'user', $T$a tab 	, a line
end, \N, \., ¢, 🙂, a quote " and 'another'$T$), (:other, :user, 'assistant', '');
ALTER TABLE agentapi.turns DISABLE TRIGGER check_shares;
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_name, backend, fingerprint, status,
        lease_owner, lease_until, ended_at, cost_usd, created_at) VALUES
    (:user, :user, :user, :org, :user, 'ghost', 'openai', '\x00ff', 'completed', NULL, NULL, now(),
     0.000000000000000000012345678901234567890, '0044-03-15 BC'),
    (:other, :user, :user, :org, :user, 'ran on', 'openai', '\x', 'running', gen_random_uuid(), now() + interval '1 minute', NULL, NULL,
     now());
ALTER TABLE agentapi.turns ENABLE TRIGGER check_shares;
INSERT INTO agentapi.providers (id, name, description) VALUES ('house', 'House', 'é');
INSERT INTO agentapi.terms (kind, id, name, color) VALUES ('interaction_type', 'house', 'House', '#123456');
SELECT agentapi.enter(jsonb_populate_record(agentapi.entry_of(t), jsonb_build_object('person', :other)))
  FROM agentapi.turns t WHERE t.status = 'completed';
INSERT INTO agentapi.budgets (id, org_id, scope, subject, user_id, period, hard, limit_nanos, by_operator)
    VALUES (:user, :org, 'user', :user, :user, 'month', true, 1000000000000000000, true);
INSERT INTO agentapi.budget_periods (id, budget_id, org_id, holder, starts, spent_nanos, reserved_nanos)
    VALUES (:other, :user, :org, :org, '0001-01-01', -1, 5);
UPDATE agentapi.turns SET budget_periods = ARRAY[:other]::uuid[], reserved_nanos = 5 WHERE id = :other;
INSERT INTO agentapi.late_reservations (turn_id, budget_periods, reserved_nanos) VALUES (:org, ARRAY[:other]::uuid[], 5);
INSERT INTO agentapi.idempotency_keys VALUES (:user, :org, 'key', '\x01', :user, 'infinity');
INSERT INTO agentapi.tasks (id, turn_id, user_id, org_id, joined, has_key, in_session, expires_at)
    VALUES ('0123456789012345678901', :user, :user, :org, true, false, true, 'infinity');
INSERT INTO agentapi.personal_tokens (id, user_id, org_id, name, token_hash, last_four, scopes, created_at, expires_at)
    VALUES (:user, :user, :org, 'laptop', sha256('x'), 'abcd', ARRAY['chat', 'a,b"c'], now(), 'infinity');
INSERT INTO agentapi.user_api_keys (id, user_id, org_id, provider, name, sealed_key, key_id) VALUES
    (:user, :user, :org, 'openrouter', 'mine', 'x', 'new'), (:other, NULL, :org, 'openai', 'ours', 'x', 'old');
INSERT INTO agentapi.audit_events (id, at, action, outcome) VALUES
    (gen_random_uuid(), now(), 'now', 'ok'), (gen_random_uuid(), now() - interval '3 months', 'then', 'ok'),
    (gen_random_uuid(), '1999-01-01', 'long ago', 'ok');
INSERT INTO agentapi.session_facts (session_id, user_id, org_id, tags, external_metadata, rating)
    VALUES (:user, :user, :org, ARRAY['a "b"', 'c,d'], '{"a": [1, null]}', 4);
INSERT INTO agentapi.turn_ratings (turn_id, user_id, org_id, rating, note) VALUES (:user, :user, :org, 5, 'a tab	');
