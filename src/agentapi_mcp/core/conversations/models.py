"""Sessions, messages and turns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import AgentId, MessageId, ModelRowId, OrgId, SessionId, TurnId, UserId
from agentapi_mcp.core.backends.events import BackendEvent, StopReason, Usage
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.keys.models import KeySource


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The turn is final and written; its followers read it from the store."""

    at: datetime


TurnEvent = BackendEvent | TurnEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One conversation of one user in one organisation."""

    id: SessionId
    title: str | None
    agent: str | None
    model: str | None
    metadata: Mapping[str, object]
    created_at: datetime
    last_message_at: datetime | None
    message_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a message takes where it names nothing: what its session last used, and its organisation's settings."""

    settings: Mapping[str, object]
    agent: str | None = None
    model: str | None = None
    metadata: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """What a session is about now."""

    user_id: UserId
    org_id: OrgId
    agent: str
    model: str | None
    metadata: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class History:
    """The newest messages of a session, oldest first, and how many older ones there are."""

    messages: tuple[HistoryMessage, ...]
    dropped: int = 0
    last_message_id: MessageId | None = None


class TurnStatus(StrEnum):
    """Where a turn stands; all but the first are final."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self is not TurnStatus.RUNNING


class EndReason(StrEnum):
    """Why a turn ended as it did."""

    ANSWERED = "answered"
    FAULT = "fault"
    CANCEL_TURN = "cancel_turn"
    ABANDONED = "abandoned"
    SHUTDOWN = "shutdown"
    LEASE_EXPIRED = "lease_expired"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStep:
    """One try to get the answer: who was asked, how it ended (`completed` or a fault), how long it took, whose key."""

    agent: str
    backend: str
    model: str | None
    outcome: str
    milliseconds: int
    key: KeySource = KeySource.SERVER


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCost:
    """What a turn cost; None is unknown, never zero. `cost_source` is `provider`, or the price list with its date."""

    usage: Usage = field(default_factory=Usage)
    cost_source: str | None = None
    latency: timedelta | None = None
    time_to_first_token: timedelta | None = None
    model_used: str | None = None
    provider: str | None = None
    route: tuple[RouteStep, ...] = ()
    billing_may_go_on: bool = False


@dataclass(frozen=True, slots=True)
class TurnFault:
    """How a turn failed, safe to show: class, message, next step."""

    fault: BackendFault | None
    message: str
    next_step: str
    retryable: bool = False
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One user message and everything done to answer it; `reply` is the text so far while it runs."""

    id: TurnId
    session_id: SessionId
    user_id: UserId
    org_id: OrgId
    status: TurnStatus
    agent: str
    backend: str
    model: str | None
    message: str
    reply: str
    created_at: datetime
    ended_at: datetime | None = None
    stop_reason: StopReason | None = None
    end_reason: EndReason | None = None
    error: TurnFault | None = None
    bill: TurnCost = field(default_factory=TurnCost)
    history_dropped: int = 0
    cancel_requested_at: datetime | None = None
    saved: bool = True
    warning: str | None = None
    last_message_id: MessageId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One utterance; `turn` is the turn it belongs to, None for messages written by other programs."""

    id: MessageId
    session_id: SessionId
    role: MessageRole
    content: str
    created_at: datetime
    tokens_in: int | None
    tokens_out: int | None
    metadata: Mapping[str, object]
    turn: Turn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """A turn to be accepted: who answers it is decided, nothing is written yet."""

    id: TurnId
    session_id: SessionId | None
    agent_id: AgentId
    agent: str
    backend: str
    model_row_id: ModelRowId | None
    model: str | None
    message: str
    title: str
    parameters: Parameters
    fingerprint: bytes
    idempotency_key: str | None
    lease_owner: UUID
    lease: timedelta


@dataclass(frozen=True, slots=True)
class AcceptedTurn:
    """A new turn, durable, with the newest message before it and the backend's stored handle."""

    turn: Turn
    previous_message_id: MessageId | None
    state: Mapping[str, str]
    session_created: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """The same request was made before: this is its turn."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Busy:
    """Another message is being answered in this session."""

    turn_id: TurnId


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What is written with the end of a turn beside the turn itself; `state` is the backend's handle for the next."""

    lease_owner: UUID
    delivered: bool
    caller_gone: bool
    state: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Lease:
    """A renewed lease, and what others asked of the turn meanwhile."""

    turn_id: TurnId
    cancel_requested: bool
    followed_at: datetime | None


class TurnMark(StrEnum):
    """What becomes known about a turn's callers."""

    FOLLOWED = "followed"
    DELIVERED = "delivered"
    ANSWERED_RUNNING = "answered_running"
    CALLER_GONE = "caller_gone"
