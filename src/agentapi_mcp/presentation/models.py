"""Structured content of tool results; every field is present, and null means unknown or none."""

from typing import Literal

from pydantic import create_model

from agentapi_mcp.presentation.costs import cost_fields
from agentapi_mcp.presentation.output_model import OutputModel, Unlisted


class FaultOut(OutputModel):
    """The error of a failed turn."""

    code: str
    message: str
    next_step: str
    retryable: bool
    retry_after_seconds: float | None


class CancelOut(OutputModel):
    """What became of a turn, in the result of `cancel_turn`; the tokens in `usage` are named as in `TurnOut`."""

    text: str
    session_id: str
    turn_id: str
    status: str
    reply: str
    reply_truncated: bool
    usage: dict[str, int | None]
    cost_usd: float | None
    billing_may_go_on: bool
    next_step: str | None


class _TurnHead(OutputModel):
    """The fields of a turn before those of its cost."""

    text: str
    session_id: str
    turn_id: str
    status: Literal["running", "input_required", "completed", "failed", "cancelled", "interrupted", "estimated"]
    stop_reason: str | None
    joined: bool
    asked: bool
    reply: str
    reply_truncated: bool
    agent: str
    backend: str
    model: str | None


_TurnWithCost = create_model("_TurnWithCost", __base__=_TurnHead, **cost_fields())


class TurnOut(_TurnWithCost):
    """A turn, in the results of `chat` and `get_turn`.

    `text` is what the server says of it, for models that get the fields alone; what the agent says is in `reply`.
    `joined` says that an earlier request started it, `asked` that its provider may have been asked, and `stop_reason`
    why the agent ended its answer (`StopReason`). With `estimate` there is no turn: nothing was asked or stored, its
    ids are empty, and `estimated_cost_usd` is what it may cost.
    """

    estimated_cost_usd: Unlisted[float | None]
    history_dropped: int
    warning: str | None
    end_reason: str | None
    saved: bool
    transcript_uri: str
    next_step: str | None
    error: FaultOut | None


class BudgetOut(OutputModel):
    """A budget with what is spent of it in the period that runs; `reserved_usd` is held for turns that run."""

    id: str
    plan: str | None
    scope: str
    subject: str | None
    period: str
    hard: bool
    limit_usd: float
    spent_usd: float
    reserved_usd: float
    left_usd: float
    unpriced_turns: int
    renews_at: str | None
    set_by: str


class BudgetsOut(OutputModel):
    """Budgets, in the results of `list_budgets`, `set_budget` and `remove_budget`."""

    budgets: list[BudgetOut]


class AgentOut(OutputModel):
    """An agent, in the result of `list_agents`; `usage` has the fields of `agent_usage`."""

    name: str
    description: str
    backend: str
    backend_reason: str | None
    enabled: bool
    status: str
    missing: list[str]
    default_model: str | None
    models: list[str]
    usage: Unlisted[dict[str, object]]


class AgentsOut(OutputModel):
    """A page of agents; `default` answers where none is named."""

    agents: list[AgentOut]
    default: str | None
    next_cursor: str | None


class ModelOut(OutputModel):
    """A model, in the result of `list_models`; prices are US dollars per million tokens."""

    agent: str
    name: str
    model_id: str
    provider: str
    description: str | None
    enabled: bool
    is_default: bool
    context_window: int | None
    max_output_tokens: int | None
    input_price: float | None
    output_price: float | None
    cached_input_price: float | None
    price_source: str | None
    price_date: str | None


class ModelsOut(OutputModel):
    """A page of models."""

    models: list[ModelOut]
    next_cursor: str | None


class SessionOut(OutputModel):
    """A session, in the result of `list_sessions`; `usage` has the fields of `session_usage`.

    What its user says of it is in no schema, which every client's model reads.
    """

    session_id: str
    title: str | None
    agent: str | None
    model: str | None
    message_count: int | None
    usage: Unlisted[dict[str, object]]
    created_at: str
    last_message_at: str | None
    status: Unlisted[str]
    interaction_type: Unlisted[str | None]
    tags: Unlisted[list[str]]
    rating: Unlisted[int | None]
    external_link: Unlisted[str | None]
    transcript_uri: str


class RatingOut(OutputModel):
    """What a user says of a session, or of one turn of it, in the result of `rate`."""

    session_id: str
    turn_id: str | None
    rating: int | None
    usefulness: int | None
    note: str | None


class RecordedOut(OutputModel):
    """A conversation elsewhere, in the result of `record_interaction`: tokens and cost as its user reports them."""

    session_id: str
    is_new: bool
    title: str | None
    agent: str | None
    model: str | None
    provider: str | None
    interaction_type: str | None
    tags: list[str]
    external_link: str | None
    external_id: str | None
    content_preview: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    cost_source: str


class SessionsOut(OutputModel):
    """A page of sessions."""

    sessions: list[SessionOut]
    next_cursor: str | None


class TranscriptOut(OutputModel):
    """A part of a transcript; `next_cursor` refers to the part before it."""

    session_id: str
    title: str | None
    format: Literal["markdown", "json"]
    markdown: str | None
    document: dict[str, object] | None
    next_cursor: str | None
    transcript_uri: str


class PartOut(OutputModel):
    """The health of a part of the server."""

    name: str
    status: str
    detail: str
    latency_ms: int | None


class AgentHealthOut(OutputModel):
    """The health of an agent, and how it was used in the last thirty days, as far as the caller may see."""

    name: str
    backend: str
    status: str
    missing: list[str]
    checked_at: str | None
    last_error: str | None
    consecutive_failures: int
    turns: int
    failures: int
    latency_p50_ms: int | None
    latency_p95_ms: int | None


class HealthOut(OutputModel):
    """The health of the server and its agents."""

    status: str
    parts: list[PartOut]
    agents: list[AgentHealthOut]


class OrganizationSettingsOut(OutputModel):
    """Settings for every member; null means the agent's own value, or no restriction."""

    default_agent: str | None
    default_model: str | None
    temperature: float | None
    max_tokens: int | None
    system_prompt: str | None
    allowed_agents: list[str] | None
    allowed_models: list[str] | None


class OrganizationNumbersOut(OutputModel):
    """Usage of an organisation; turns by status, tokens and cost cover the last `days`.

    `unknown_tokens` and `unknown_costs` are how many turns are missing in the sums, since nobody knows theirs.
    """

    days: int = 30
    members: int
    sessions: int
    messages: int
    turns: dict[str, int]
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    unknown_tokens: int
    unknown_costs: int


class OrganizationLimitOut(OutputModel):
    """How much the organisation has and may have; null means no limit, and one that is not readable is no number."""

    used: int
    most: int | None
    readable: bool


class OrganizationOut(OutputModel):
    """An organisation, in the results of `get_organization` and `set_organization`.

    `undeclared_agents` are those that the settings name and the server's configuration file does not declare.
    """

    id: str
    name: str
    settings: OrganizationSettingsOut
    numbers: OrganizationNumbersOut
    limits: dict[str, OrganizationLimitOut]
    undeclared_agents: list[str]


class AgentPreferencesOut(OutputModel):
    """A user's preferences for an agent; null means the value of the organisation or the agent."""

    agent: str
    enabled: bool
    model: str | None
    temperature: float | None
    max_tokens: int | None
    system_prompt: str | None


class PreferencesOut(OutputModel):
    """The preferences of a user in a client, in the results of `get_preferences` and `set_preference`."""

    client: str
    default_agent: str | None
    default_model: str | None
    agents: list[AgentPreferencesOut]
