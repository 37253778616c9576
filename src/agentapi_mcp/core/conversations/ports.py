"""Ports of conversations: storage, cache, live events."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import AgentId, MessageId, SessionId, TaskId, TurnId
from agentapi_mcp.base.paging import Page
from agentapi_mcp.core.access.ports import ProfileStore
from agentapi_mcp.core.budgets.models import Estimate, Expense
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    Defaults,
    Ending,
    FoundTurn,
    History,
    Message,
    NewTask,
    NewTurn,
    Obstacles,
    Renewal,
    Session,
    SessionState,
    SettledTurn,
    SettlingRule,
    StaleDefaults,
    Task,
    Turn,
    TurnEvent,
    TurnMark,
)
from agentapi_mcp.core.conversations.session_facts import (
    NewInteraction,
    Rating,
    SessionFilter,
    Tagging,
    TurnRating,
)
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Shares
from agentapi_mcp.core.keys.models import PaidBy
from agentapi_mcp.core.signals import Signals

T = TypeVar("T")


class TurnStore(Protocol):
    """Turns, their leases and idempotency keys."""

    async def begin(self, principal: Principal, new: NewTurn) -> AcceptedTurn | Obstacles | StaleDefaults:
        """Store session, user message and turn, or return what stands in the way: turns, or newer defaults.

        Raises:
            NotFoundError: there is no such session.
            BudgetExceededError: a budget, or what the caller set, lacks what it may cost; nothing was written.
            StoreBusyError: the session is locked by somebody else; nothing was written.
            StoreUnclearError: the answer was lost, and it is not known whether the turn was stored.
        """
        ...

    async def estimate(
        self, principal: Principal, session_id: SessionId | None, agent: str, paid_by: PaidBy, expense: Expense
    ) -> Estimate:
        """Say what a turn is expected to cost, and whether a budget would refuse it; nothing is written.

        Raises:
            NotFoundError: there is no such session, or the principal may not chat.
        """
        ...

    async def find(self, principal: Principal, turn_id: TurnId) -> FoundTurn:
        """Read a turn with what is known of its owner and callers, or raise NotFoundError; needs the right to chat."""
        ...

    async def get(self, principal: Principal, turn_id: TurnId) -> Turn:
        """Read a turn, or raise NotFoundError."""
        ...

    async def recent(self, principal: Principal, limit: int, *, only_open: bool = False) -> tuple[Turn, ...]:
        """List the principal's newest turns, newest first; those that have not ended if `only_open`.

        Of a message or reply that is longer than LISTED_CHARACTERS, only one character more is read.
        """
        ...

    async def ids_like(self, principal: Principal, part: str, limit: int) -> tuple[TurnId, ...]:
        """Return so many ids of the principal's turns that begin or end with this part, of hexadecimal digits alone."""
        ...

    async def mark(
        self, principal: Principal, turn_id: TurnId, mark: TurnMark, ago: timedelta = timedelta(0)
    ) -> datetime | None:
        """Record a fact about a turn's callers, that long ago; a later one of its kind stays.

        Returns:
            The time of the latest by the store's clock, None without such a turn.
        """
        ...

    async def mark_delivered(self, turn_ids: Sequence[TurnId]) -> None:
        """Record that the answers of turns of this process have arrived."""
        ...

    async def mark_asked(self, owner: UUID, turn_id: TurnId) -> bool:
        """Record that the provider is about to be asked; False when the lease is lost."""
        ...

    async def request_cancel(self, principal: Principal, turn_id: TurnId) -> Turn:
        """Request cancellation from the process that runs the turn; a final turn is not changed."""
        ...

    async def renew(self, owner: UUID, turn_ids: Sequence[TurnId], lease: timedelta) -> Renewal:
        """Renew leases; a turn missing from the result has lost its lease."""
        ...

    async def save_partial(self, principal: Principal, owner: UUID, turn_id: TurnId, text: str) -> bool:
        """Store the text so far; False when the lease is lost."""
        ...

    async def finish(self, principal: Principal, ended: Turn, ending: Ending) -> Turn | None:
        """Store the end of a turn and return the stored turn; None when the lease is lost.

        It may be repeated after a lost answer.

        Raises:
            StoreBusyError: the session is locked by somebody else; nothing was written.
            StoreUnclearError: the answer was lost, and it is not known whether the end was stored.
        """
        ...

    async def owners(self) -> frozenset[UUID]:
        """Return the owners of all open turns."""
        ...

    async def settle(self, rule: SettlingRule) -> tuple[SettledTurn, ...]:
        """Mark turns that nobody runs any more as interrupted, at most a hundred; locked sessions are left out."""
        ...


class TaskStore(Protocol):
    """Calls that are answered later; those of other principals, and expired ones, are treated as absent."""

    async def create(self, principal: Principal, new: NewTask) -> datetime:
        """Store a task, and return when; it takes the place of the oldest if the principal has as many as they may."""
        ...

    async def find(self, principal: Principal, task_ids: Sequence[TaskId]) -> tuple[Task, ...]:
        """Read tasks with their turns, in no order; absent ones are left out."""
        ...

    async def conclude(self, principal: Principal, task_id: TaskId, result: str) -> None:
        """Store the result of a call that ends before its turn; the first one stays."""
        ...


class SessionStore(Protocol):
    """Sessions of a principal, and their messages."""

    async def get(self, principal: Principal, session_id: SessionId) -> Session:
        """Read a session, or raise NotFoundError."""
        ...

    async def defaults(self, principal: Principal, session_id: SessionId | None) -> Defaults:
        """Read the defaults for a message in this session, or in a new one, or raise NotFoundError.

        The organisation settings are `default_agent`, `default_model`, `temperature`, `max_tokens` and `system_prompt`.
        """
        ...

    async def last_model(self, principal: Principal, session_id: SessionId) -> str | None:
        """Return the model of the last turn of a session, as that turn has it; None for one without a model."""
        ...

    async def list_(
        self, principal: Principal, wanted: SessionFilter, *, cursor: str | None, limit: int
    ) -> Page[Session]:
        """Page through sessions, newest first."""
        ...

    async def sizes(self, principal: Principal, session_ids: Sequence[SessionId]) -> Mapping[SessionId, int]:
        """Return how many bytes the messages of each session have, in UTF-8."""
        ...

    async def messages(
        self, principal: Principal, session_id: SessionId, *, cursor: str | None, limit: int, max_bytes: int
    ) -> Page[Message]:
        """Page through messages with their turns, newest page first; each page is sorted oldest first."""
        ...

    async def history(self, principal: Principal, session_id: SessionId, before: TurnId, max_bytes: int) -> History:
        """Read the newest messages before a turn, up to `max_bytes`."""
        ...

    async def rename(self, principal: Principal, session_id: SessionId, title: str) -> None:
        """Change the title of a session."""
        ...

    async def delete(self, principal: Principal, session_id: SessionId) -> None:
        """Delete a session with its messages and turns; refused while a turn runs."""
        ...


class FactStore(Protocol):
    """What a principal says of their sessions and turns; those of others are treated as absent."""

    async def rate_session(
        self, principal: Principal, session_id: SessionId, rating: Rating, *, clear: bool
    ) -> Session:
        """Rate a session, or take its rating back.

        Raises:
            NotFoundError: there is no such session.
            ConflictError: its first turn is still running.
        """
        ...

    async def rate_turn(self, principal: Principal, turn_id: TurnId, rating: Rating, *, clear: bool) -> TurnRating:
        """Rate a turn, or take its rating back.

        Raises:
            NotFoundError: there is no such turn.
            ConflictError: it is still running.
            LimitExceededError: the principal has rated as many turns as they may.
        """
        ...

    async def tag(self, principal: Principal, session_id: SessionId, tagging: Tagging, most: int) -> Session:
        """Change the tags of a session and its kind; at most so many tags.

        Raises:
            NotFoundError: there is no such session.
            InvalidRequestError: it would have more tags.
        """
        ...

    async def archive(self, principal: Principal, session_id: SessionId, *, archived: bool) -> Session:
        """Archive a session, or take it out of the archive.

        Raises:
            NotFoundError: there is no such session.
        """
        ...

    async def record(self, principal: Principal, new: NewInteraction) -> tuple[Session, bool]:
        """Store a conversation elsewhere, or find the one that is stored with its id; tell whether it is new.

        Raises:
            ConflictError: the one with its id differs from it.
            LimitExceededError: there are as many as there may be.
        """
        ...

    async def interaction_types(self, principal: Principal) -> tuple[str, ...]:
        """List the kinds of interactions that can be chosen."""
        ...


class OwnerLocks(Protocol):
    """Which owners of turns on this machine have died, known by the locks that they held while they lived."""

    def died(self, owners: frozenset[UUID]) -> frozenset[UUID]:
        """Return those of some owners that are known to be dead; of the others nothing is known."""
        ...


class SessionCache(Protocol):
    """Cached history and state of sessions; safe to lose.

    The database has both; the cached state is also read by programs outside of this server.
    """

    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        """Return the cached history if it ends with this message; otherwise it is stale, and the result is None."""
        ...

    async def save(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Store the state for a day and the history for an hour; a `history` of None is unknown."""
        ...

    async def remove(self, session_id: SessionId) -> None:
        """Remove history and state."""
        ...


class TurnMetrics(Protocol):
    """Metrics of the last hour for programs outside of this server; safe to lose."""

    def note(self, agent_id: AgentId, turn: Turn) -> None:
        """Count a turn that this process has ended, without waiting."""
        ...


class TurnEvents(Protocol):
    """Live events of running turns; delivered at most once, so followers must also poll the store."""

    def publish(self, turn_id: TurnId, event: TurnEvent, offset: int) -> None:
        """Publish an event without waiting; `offset` is the length of the answer before it, in characters."""
        ...

    def follow(self, turn_id: TurnId) -> AbstractAsyncContextManager[AsyncIterator[TurnEvent]]:
        """Subscribe to the events of a turn that runs in this process."""
        ...

    def listen(self, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> Callable[[], None]:
        """Call the listener with each offset and event of a turn of another process, from the first one retained.

        Only text, thoughts, tool activity and the end are transmitted, and only where processes share Redis.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPorts:
    """What the engine of turns is built on."""

    turns: TurnStore
    sessions: SessionStore
    events: TurnEvents
    signals: Signals
    clock: Clock
    shares: Shares
    profiles: ProfileStore
