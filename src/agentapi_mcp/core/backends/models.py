"""What a backend is given, and how its health is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from pydantic import SecretStr

from agentapi_mcp.base.ids import SessionId, TurnId
from agentapi_mcp.core.identity.principals import Principal


class MessageRole(StrEnum):
    """Who says a message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class HistoryMessage:
    """What the model sees of an earlier message."""

    role: MessageRole
    text: str


class HealthStatus(StrEnum):
    """How an agent or a part is; UNKNOWN when nobody has measured it."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    NOT_CONFIGURED = "not_configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """What a check saw; `error` is safe to show. UNKNOWN when there is no free way to tell."""

    status: HealthStatus
    error: str | None = None
    latency: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTurn:
    """What a backend is to answer; `history` is oldest first and fits, `state` is its own handle of this session.

    `api_key` is the caller's, for a backend that declares OWN_KEYS: it takes it in place of the operator's.
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
    api_key: SecretStr | None = None
    state: Mapping[str, str] = field(default_factory=dict[str, str])
