-- needs: 0.1.0
-- Ours: turns, idempotency keys, the local identity, what the operator's files said last.
CREATE TABLE agentapi.turns (
    id uuid PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES public.chat_sessions (id) ON DELETE CASCADE,
    user_id uuid NOT NULL,
    org_id uuid NOT NULL,
    user_message_id uuid NOT NULL,
    assistant_message_id uuid,
    agent_id uuid,
    agent_name text NOT NULL,
    backend text NOT NULL,
    model_row_id uuid,
    model_name text,
    fingerprint bytea NOT NULL,
    parameters jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL CHECK (status IN ('running', 'input_required', 'completed', 'failed', 'cancelled', 'interrupted')),
    partial_text text NOT NULL DEFAULT '',
    lease_owner uuid,
    lease_until timestamptz,
    cancel_requested_at timestamptz,
    followed_at timestamptz,
    delivered_at timestamptz,
    answered_running_at timestamptz,
    caller_gone_at timestamptz,
    end_reason text,
    stop_reason text,
    error jsonb,
    warning text,
    input_tokens integer,
    output_tokens integer,
    cached_tokens integer,
    reasoning_tokens integer,
    cost_usd numeric,
    cost_source text,
    billing_may_go_on boolean NOT NULL DEFAULT false,
    latency_ms integer,
    time_to_first_token_ms integer,
    model_used text,
    provider text,
    route jsonb NOT NULL DEFAULT '[]',
    history_dropped integer NOT NULL DEFAULT 0,
    backend_state jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    CHECK ((status = 'running') = (lease_owner IS NOT NULL)),
    CHECK ((status IN ('running', 'input_required')) = (ended_at IS NULL))
);
-- What makes "another message is refused while one is answered" true under a race.
CREATE UNIQUE INDEX turns_one_running ON agentapi.turns (session_id) WHERE status = 'running';
CREATE INDEX turns_session ON agentapi.turns (session_id, created_at, id);
CREATE INDEX turns_user ON agentapi.turns (user_id, org_id, created_at, id);
CREATE INDEX turns_fingerprint ON agentapi.turns (user_id, org_id, fingerprint, created_at);
CREATE INDEX turns_agent ON agentapi.turns (agent_name, created_at);

CREATE TABLE agentapi.idempotency_keys (
    user_id uuid NOT NULL,
    org_id uuid NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    turn_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, org_id, key)
);

CREATE TABLE agentapi.local_identity (
    the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    user_id uuid NOT NULL REFERENCES public.profiles (id) ON DELETE CASCADE,
    org_id uuid NOT NULL REFERENCES public.organizations (id) ON DELETE CASCADE
);

CREATE TABLE agentapi.catalogue_files (
    source text PRIMARY KEY,
    sha256 text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);
