"""Models of sessions, messages and turns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import AgentId, MessageId, ModelRowId, OrgId, SessionId, TaskId, TurnId, UserId
from agentapi_mcp.base.json_records import named, unlisted
from agentapi_mcp.core.audit.models import AuditEvent
from agentapi_mcp.core.backends.events import BackendEvent, StopReason, Usage
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.budgets.models import BudgetState, Estimate, Expense
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.session_facts import NOTHING_SAID, SessionFacts
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.keys.models import KeySource, PaidBy
from agentapi_mcp.core.usage.models import UsageSums


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The turn is final and stored; followers read it from the store."""

    at: datetime


TurnEvent = BackendEvent | TurnEnded

_NOT_COUNTED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One conversation of one user in one organisation, with the sums of its turns that have ended."""

    id: SessionId
    title: str | None
    agent: str | None
    model: str | None
    metadata: Mapping[str, object]
    created_at: datetime
    last_message_at: datetime | None
    message_count: int | None = None
    facts: SessionFacts = NOTHING_SAID
    totals: UsageSums = field(default_factory=UsageSums)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Defaults for a message: the session's last agent and model, and the organisation's settings.

    The digests are the store's, which compares them when the turn begins. `size` is that of settings and metadata.
    """

    session_id: SessionId | None
    settings: Mapping[str, object]
    agent: str | None = None
    model: str | None = None
    metadata: Mapping[str, object]
    settings_digest: str | None
    metadata_digest: str | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """Current owner, agent, model and metadata of a session."""

    user_id: UserId
    org_id: OrgId
    agent: str
    model: str | None
    metadata: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class History:
    """What prompts hold of the newest messages of a session, oldest first; `dropped` counts the older ones left out.

    `last_message_id` is that of the session's newest message, in the history or not, where a cache needs it.
    `unfinished` counts the messages at the end, one and what was said to it, whose place the same message takes when it
    is sent again. `size` is that of all texts in bytes. Each turn needs it, and a long session has many: it is counted
    once.
    """

    messages: tuple[HistoryMessage, ...]
    dropped: int = 0
    last_message_id: MessageId | None = None
    unfinished: int = 0
    size: int = field(default=_NOT_COUNTED, compare=False)

    def __post_init__(self) -> None:
        """Count the bytes, unless that was done."""
        if self.size == _NOT_COUNTED:
            object.__setattr__(self, "size", size_of(self.messages))

    def before(self, message: str) -> "History":
        """Return what is sent with a message: without the same one, if that was not answered in full."""
        if not repeats(self.messages, self.unfinished, message):
            return self
        left, repeated = self.messages[: -self.unfinished], self.messages[-self.unfinished :]
        return History(left, self.dropped, self.last_message_id, size=self.size - size_of(repeated))

    def followed_by(
        self, exchange: tuple[HistoryMessage, ...], last_message_id: MessageId, *, unfinished: bool = False
    ) -> "History":
        """Return this history with a message and what was said to it, of which alone the bytes are counted."""
        size = self.size + size_of(exchange)
        messages, count = (*self.messages, *exchange), len(exchange) if unfinished else 0
        return History(messages, self.dropped, last_message_id, count, size)


def repeats(messages: Sequence[HistoryMessage], unfinished: int, text: str) -> bool:
    """Whether a text is that of the message whose answer is unfinished."""
    return 0 < unfinished <= len(messages) and messages[-unfinished].text == text


def size_of(messages: Iterable[HistoryMessage]) -> int:
    """Count the bytes of the texts of messages."""
    return sum(bytes_of(message.text) for message in messages)


def bytes_of(text: str) -> int:
    """Count the bytes of a text, which is encoded only where that is more than its characters."""
    return len(text) if text.isascii() else len(text.encode())


class TurnStatus(StrEnum):
    """Status of a turn in the store; those of `OPEN` have a lease, the others are final."""

    RUNNING = "running"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_final(self) -> bool:
        """Whether the turn has ended."""
        return self not in OPEN


OPEN = frozenset({TurnStatus.RUNNING, TurnStatus.INPUT_REQUIRED})


class EndReason(StrEnum):
    """Why a turn ended."""

    ANSWERED = "answered"
    FAULT = "fault"
    CANCEL_TURN = "cancel_turn"
    ABANDONED = "abandoned"
    ACCESS_REVOKED = "access_revoked"
    SHUTDOWN = "shutdown"
    LEASE_EXPIRED = "lease_expired"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStep:
    """One attempt to get the answer; `outcome` is `completed`, another final status or a fault."""

    agent: str
    backend: str
    model: str | None
    outcome: str
    latency: timedelta = field(metadata=named("milliseconds"))
    key: KeySource = KeySource.SERVER


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCost:
    """Cost of a turn; None means unknown, never zero. `cost_source` is `provider`, or the price list with its date.

    What cost nothing since nobody was asked, or the agent refused before any work, has `not asked` or `refused`.
    `budget` is the tightest of those that the turn counted in, as it was when the turn ended; the store says it.

    Its fields and those of its parts, each with a default, are stored and published by that alone, in this order.
    """

    usage: Usage = field(default_factory=Usage)
    cost_source: str | None = None
    billing_may_go_on: bool = False
    latency: timedelta | None = None
    time_to_first_token: timedelta | None = None
    model_used: str | None = None
    provider: str | None = None
    budget: BudgetState | None = field(default=None, metadata=unlisted())
    route: tuple[RouteStep, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnFault:
    """Failure of a turn, safe to show: class, message, next step."""

    fault: BackendFault | None
    message: str
    next_step: str
    retryable: bool = False
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One user message and its answer; while it runs, `reply` is the text so far."""

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
    asked_at: datetime | None = None
    joined: bool = False


# How many characters of a text lists show and search.
LISTED_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a session; `turn` is None for messages that other programs wrote."""

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
    """A turn to begin: agent and model are resolved, nothing is stored yet.

    The ids are made before, so that a call whose answer was lost can be repeated with `again`. `join` looks for a turn
    of the same request whose answer may not have arrived; `replaces` is a turn that was interrupted or given up, and
    that this one asks again. `asked` says that the request to the provider follows at once. `most` is what its user may
    have in all processes; a turn that is `refused` already is written in no case, and others that answer it are found.
    `defaults` are what agent, model and parameters were chosen by, which the store compares; None compares nothing.
    `model` is that of the row, except that a borrowed one is AGENT/MODEL, and may have no row any more. `paid_by` is
    what it is asked with, for its bill, and `expense` what it may cost, for budgets.
    """

    id: TurnId
    message_id: MessageId
    session_id: SessionId | None
    new_session_id: SessionId
    agent_id: AgentId
    agent: str
    backend: str
    model_row_id: ModelRowId | None
    model_row_name: str | None
    model: str | None
    message: str
    title: str
    parameters: Parameters
    fingerprint: bytes
    client: str | None
    idempotency_key: str | None
    lease_owner: UUID
    lease: timedelta
    join: bool = True
    replaces: TurnId | None = None
    asked: bool = True
    again: bool = False
    retry: bool = False
    events: tuple[AuditEvent, ...] = ()
    most: Mapping[Resource, int] = field(default_factory=dict[Resource, int])
    refused: bool = False
    defaults: Defaults | None = None
    paid_by: PaidBy = field(default_factory=PaidBy)
    expense: Expense = field(default_factory=Expense)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatEstimate:
    """What a message would be resolved to, and what its turn is expected to cost; nothing is stored."""

    session_id: SessionId | None
    agent: str
    backend: str
    model: str | None
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class AcceptedTurn:
    """A stored turn, with the newest message before it and the state that the backend saved last.

    `following` is what the next message of the session begins with, if that is known; `replaces` says that it is asked
    in place of an earlier one.
    """

    turn: Turn
    previous_message_id: MessageId | None
    state: Mapping[str, str]
    session_created: bool
    following: Defaults | None = None
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class StaleDefaults:
    """Nothing was written, since the defaults that the turn was chosen by have changed.

    With `again`, an earlier call whose answer was lost may write the turn yet.
    """

    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacles:
    """Turns that stand in the way of a new one, of which nothing was written.

    They are the open turn of the session, the turn of the idempotency key, and one of the same request whose answer may
    not have arrived.
    """

    open_turn: TurnId | None = None
    keyed_turn: TurnId | None = None
    same_turn: TurnId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTurn:
    """A turn that stands in the way, and what is known of its owner and its callers.

    `lease_is_over` says that its owner has not renewed the lease; `owner_gone` that it has no connection to the store,
    as one that died; `caller_left` that the last caller went away, or was told that it runs, and that nobody has come
    back for it since; `delivered` that its answer has arrived. `age` is the time since it began. `replaced_by` is the
    turn that asks again what this one was interrupted in; `replaces` says that this one is such a turn.
    """

    turn: Turn
    fingerprint: bytes
    owner: UUID | None
    lease_is_over: bool
    owner_gone: bool
    caller_left: bool
    delivered: bool
    age: timedelta
    replaced_by: TurnId | None
    replaces: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Data written with the end of a turn; `state` is the backend's state for the next turn.

    `message_id` is that of the reply, None without one; `asked` says whether the provider may have been asked.
    """

    lease_owner: UUID
    message_id: MessageId | None
    caller_gone: bool
    asked: bool
    state: Mapping[str, str]
    events: tuple[AuditEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class RenewedLease:
    """A renewed lease, with what other processes wrote.

    They ask for its cancellation, follow the turn, and tell a caller that it runs, who is expected to come back later.
    A lease that somebody keeps locked is not renewed.
    """

    turn_id: TurnId
    cancel_requested: bool
    followed_at: datetime | None
    answered_running: bool


@dataclass(frozen=True, slots=True)
class Renewal:
    """The leases that were renewed, and the time of the store's clock."""

    at: datetime
    leases: tuple[RenewedLease, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlingRule:
    """Which turns to settle, except for this process's `own`.

    Those of the `dead` owners at once. Those whose lease is over only where `lease` is given: `seen_at` is when this
    process saw the store's clock last, and nothing is settled when that clock has jumped or stood still since, by more
    than `gap`. With `only`, no other turn is looked at.
    """

    own: frozenset[TurnId]
    dead: frozenset[UUID] = frozenset()
    lease: timedelta | None = None
    seen_at: datetime | None = None
    gap: timedelta = timedelta(0)
    only: TurnId | None = None


@dataclass(frozen=True, slots=True)
class SettledTurn:
    """A turn that was marked as interrupted because nobody runs it any more."""

    id: TurnId
    session_id: SessionId
    user_id: UserId
    org_id: OrgId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """How a message was sent, as far as an answer that belongs to an earlier one says so."""

    has_key: bool
    in_session: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A call that is answered later: it waits for a turn, which it may have `joined`."""

    id: TaskId
    turn_id: TurnId
    joined: bool
    sent: Sent
    lifetime: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A call that is answered later, with its turn as it is stored now.

    `result` is what the call was answered, as JSON, where that was before the end of its turn.
    """

    id: TaskId
    turn: Turn
    sent: Sent
    created_at: datetime
    expires_at: datetime
    result: str | None = None
    concluded_at: datetime | None = None


class TurnMark(StrEnum):
    """Facts recorded about the callers of a turn."""

    FOLLOWED = "followed"
    DELIVERED = "delivered"
    ANSWERED_RUNNING = "answered_running"
    CALLER_GONE = "caller_gone"
