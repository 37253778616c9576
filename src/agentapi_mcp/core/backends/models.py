"""Input of a backend, and its health."""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum

from pydantic import SecretStr

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import SessionId, TurnId
from agentapi_mcp.core.backends.events import BackendEvent
from agentapi_mcp.core.identity.principals import Principal


class MessageRole(StrEnum):
    """The author of a message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class HistoryMessage:
    """An earlier message, as sent to the model."""

    role: MessageRole
    text: str


class HealthStatus(StrEnum):
    """Health of an agent or a part of the server; UNKNOWN before a measurement."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    NOT_CONFIGURED = "not_configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """Result of a health check; `error` and `next_step` are safe to show. UNKNOWN if there is no free way to check."""

    status: HealthStatus
    error: str | None = None
    fault: BackendFault | None = None
    next_step: str | None = None
    latency: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedModel:
    """A model in a provider's list, which does not say what is None; prices are US dollars per million tokens."""

    model_id: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    input_price: Decimal | None = None
    output_price: Decimal | None = None
    cached_price: Decimal | None = None
    cache_write_price: Decimal | None = None


# In place of the name of a model, for an agent that borrows one: none is to be asked. (A client's "none" is no value.)
WITHOUT_MODEL = "off"


# What an agent that BORROWS_MODELS sends the model beside the message, at most: texts of its own, and no history.
MOST_BORROWER_BYTES = 32_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A model of another agent, which an agent that BORROWS_MODELS may ask; what it costs is on the turn's bill.

    `run` is that of the other agent's backend; None if the agent cannot be asked, which `lacks` explains.
    `key_variables` are the environment variables of the operator's key, if that is what the agent is asked with.
    """

    agent: str
    model: str
    run: "Callable[[BackendTurn], AsyncGenerator[BackendEvent]] | None" = None
    lacks: str = ""
    key_variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTurn:
    """A turn for a backend to answer; `history` is oldest first and fits the context window.

    `max_tokens` is the longest answer in tokens that the caller asked for, cut to what the model can;
    `max_output_tokens`, where nobody asked, what the model can, as far as that is known.

    `state` is the state that the backend saved for this session. `api_key` is the caller's key, for a backend that
    declares OWN_KEYS to use in place of the operator's; `access_token` that of the caller's account, for one that
    declares OWN_ACCOUNTS. A turn has one of them at most.

    With a `writer`, model, key and token are those of its agent.
    """

    turn_id: TurnId
    session_id: SessionId
    principal: Principal
    message: str
    model_id: str | None = None
    system: str | None = None
    history: tuple[HistoryMessage, ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    max_output_tokens: int | None = None
    api_key: SecretStr | None = None
    access_token: SecretStr | None = None
    state: Mapping[str, str] = field(default_factory=dict[str, str])
    writer: Writer | None = None
