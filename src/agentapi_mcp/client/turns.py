"""A turn as a program reads it: the fields of the tools `chat` and `get_turn`, named for type checkers."""

from typing import Literal

from agentapi_mcp.presentation.models import FaultOut
from agentapi_mcp.presentation.output_model import OutputModel, Unlisted


class Usage(OutputModel):
    """Tokens; None is unknown, never zero. The input includes the cached ones, and those written to the cache.

    A server of before counts none that are written.
    """

    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    cache_write_tokens: Unlisted[int | None] = None  # no schema of a tool names them, as every model reads those
    cache_write_1h_tokens: Unlisted[int | None] = None


class Step(OutputModel):
    """One attempt to get the answer; `outcome` is `completed`, another final status or a fault."""

    agent: str
    backend: str
    model: str | None
    outcome: str
    milliseconds: int
    key: str


class BudgetLeft(OutputModel):
    """What is left of a budget; `renews_at` is None where it never does.

    It is less than nothing where turns cost more than they had reserved. Amounts are US dollars.
    """

    scope: str
    period: str
    hard: bool
    limit_usd: float
    left_usd: float
    renews_at: str | None


class BudgetState(BudgetLeft):
    """The tightest budget of a turn when it ended; `exceeded` is a soft one beside it that is used up."""

    exceeded: BudgetLeft | None = None


class Turn(OutputModel):
    """A message and its answer, with the bill: US dollars, tokens, milliseconds; None is unknown, never zero.

    `text` is what the server says of the turn, `reply` what the agent says. `joined` says that an earlier request began
    it, `asked` that its provider may have been asked, `billing_may_go_on` that the agent could not be stopped for sure,
    and `stop_reason` why it ended its answer.
    """

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
    usage: Usage
    cost_usd: float | None
    cost_source: str | None
    billing_may_go_on: bool
    latency_ms: int | None
    time_to_first_token_ms: int | None
    model_used: str | None
    provider: str | None
    budget: Unlisted[BudgetState | None] = None
    route: list[Step]
    estimated_cost_usd: Unlisted[float | None] = None
    history_dropped: int
    warning: str | None
    end_reason: str | None
    saved: bool
    transcript_uri: str
    next_step: str | None
    error: FaultOut | None


class Estimate(OutputModel):
    """What a message may cost, in US dollars; nobody was asked, and nothing is stored.

    `estimated_cost_usd` is an upper bound in most cases, None where it is not known. `budget` is the one that would
    refuse the message, else the tightest, and `error` says why it would be refused; None: it would not.
    """

    text: str
    agent: str
    backend: str
    model: str | None
    estimated_cost_usd: float | None
    budget: BudgetState | None
    error: FaultOut | None
