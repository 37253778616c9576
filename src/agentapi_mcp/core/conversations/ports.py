"""Ports of conversations: storage, cache, live events."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from agentapi_mcp.base.ids import MessageId, SessionId, TurnId
from agentapi_mcp.base.paging import Page
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    Busy,
    Defaults,
    Ending,
    History,
    Joined,
    Lease,
    Message,
    NewTurn,
    Session,
    SessionState,
    Turn,
    TurnEvent,
    TurnMark,
)
from agentapi_mcp.core.identity.principals import Principal

T = TypeVar("T")


class TurnStore(Protocol):
    """Turns, their leases, and what makes them happen once. Reading a turn whose lease is over settles it."""

    async def accept(self, principal: Principal, new: NewTurn) -> AcceptedTurn | Joined | Busy:
        """Write session, user message and turn; or find the turn that this request already has."""
        ...

    async def get(self, principal: Principal, turn_id: TurnId) -> Turn:
        """Read a turn, or raise NotFoundError."""
        ...

    async def recent(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        """List the principal's newest turns, newest first."""
        ...

    async def mark(self, principal: Principal, turn_id: TurnId, mark: TurnMark) -> None:
        """Note what became of the turn's callers."""
        ...

    async def request_cancel(self, principal: Principal, turn_id: TurnId) -> Turn:
        """Ask the turn's owner to end it; a turn that is final stays as it is."""
        ...

    async def renew(self, owner: UUID, turn_ids: Sequence[TurnId], lease: timedelta) -> tuple[Lease, ...]:
        """Renew leases; a turn that is not in the answer is lost to its owner."""
        ...

    async def save_partial(self, principal: Principal, owner: UUID, turn_id: TurnId, text: str) -> bool:
        """Keep the text so far; False when the lease is lost."""
        ...

    async def finish(self, principal: Principal, ended: Turn, ending: Ending) -> Turn | None:
        """Write a turn as it ended, and return it as it is kept; None when the lease is lost."""
        ...


class SessionStore(Protocol):
    """Sessions and their messages, of one principal."""

    async def get(self, principal: Principal, session_id: SessionId) -> Session:
        """Read a session, or raise NotFoundError."""
        ...

    async def defaults(self, principal: Principal, session_id: SessionId | None) -> Defaults:
        """Read what a message in this session, or in a new one, takes where it names nothing, or raise NotFoundError.

        The settings of an organisation are `default_agent`, `default_model`, `temperature`, `max_tokens` and
        `system_prompt`.
        """
        ...

    async def list_(
        self, principal: Principal, *, agent: str | None, query: str | None, cursor: str | None, limit: int
    ) -> Page[Session]:
        """Page through sessions, newest first; `query` searches titles and first messages."""
        ...

    async def messages(
        self, principal: Principal, session_id: SessionId, *, cursor: str | None, limit: int, max_bytes: int
    ) -> Page[Message]:
        """Page through messages with their turns, newest page first; within a page the oldest comes first."""
        ...

    async def history(self, principal: Principal, session_id: SessionId, before: TurnId, max_bytes: int) -> History:
        """Read the newest messages before a turn that fit."""
        ...

    async def rename(self, principal: Principal, session_id: SessionId, title: str) -> None:
        """Give a session another title."""
        ...

    async def delete(self, principal: Principal, session_id: SessionId) -> None:
        """Delete a session with its messages and turns; refused while a turn runs."""
        ...


class SessionCache(Protocol):
    """What is quick to lose of a session: its recent history, and what it is about, told to whoever looks from outside.

    Forgettable: the truth of both is in rows.
    """

    async def find(self, session_id: SessionId, last_message_id: MessageId) -> History | None:
        """Find the history, if it ends with this message; else others have said more since."""
        ...

    async def keep(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
        """Keep the state for a day and the history for an hour; None where it is not known."""
        ...

    async def forget(self, session_id: SessionId) -> None:
        """Keep neither any longer."""
        ...


class TurnEvents(Protocol):
    """The live events of running turns; at most once, so followers also look at what is written."""

    def publish(self, turn_id: TurnId, event: TurnEvent, offset: int) -> None:
        """Tell whoever follows; never waits. `offset` is how long the answer was before the event, in characters."""
        ...

    def follow(self, turn_id: TurnId) -> AbstractAsyncContextManager[AsyncIterator[TurnEvent]]:
        """Follow a turn that runs in this process, from now on."""
        ...

    def listen(self, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> Callable[[], None]:
        """Call the listener with every offset and event of a turn of another process, from the first that is kept.

        Only texts, thoughts, tool activity and the end travel; they never do where processes share no such store.
        """
        ...
