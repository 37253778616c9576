"""Events of a running turn."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from agentapi_mcp.base.json_records import unlisted


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and cost as the backend reported them; None is unknown, never zero.

    Input includes the tokens that were read from a cache (`cached_tokens`) or written to one (`cache_write_tokens`, of
    which those of `cache_write_1h_tokens` are kept for an hour), output those of reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: Decimal | None = None
    cache_write_tokens: int | None = field(default=None, metadata=unlisted())
    cache_write_1h_tokens: int | None = field(default=None, metadata=unlisted())


class ToolState(StrEnum):
    """State of a tool call of the agent."""

    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"


class StopReason(StrEnum):
    """Why the agent ended its answer."""

    END = "end"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    PAUSED = "paused"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer, in order."""

    text: str


@dataclass(frozen=True, slots=True)
class ThoughtDelta:
    """A piece of the agent's reasoning; never part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolActivity:
    """The agent uses one of its own tools."""

    name: str
    state: ToolState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """Keep-alive of the agent without content, such as a comment in an event stream."""


@dataclass(frozen=True, slots=True)
class UsageReported:
    """Usage so far; a later report replaces an earlier one."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Finished:
    """The regular end of a run; a failure raises BackendError instead."""

    stop_reason: StopReason = StopReason.END
    model: str | None = None
    provider: str | None = None
    provider_request_id: str | None = None
    state: dict[str, str] = field(default_factory=dict[str, str])
    warning: str | None = None


BackendEvent = TextDelta | ThoughtDelta | ToolActivity | SignOfLife | UsageReported | Finished
