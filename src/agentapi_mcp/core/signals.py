"""Notifications between the processes of one database."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId


class SignalKind(StrEnum):
    """The kind of a signal."""

    CANCEL = "cancel"
    CALLER_LEFT = "caller_left"
    ENDED = "ended"
    SESSION_CHANGED = "session_changed"
    SESSIONS_CHANGED = "sessions_changed"
    CATALOGUE_CHANGED = "catalogue_changed"
    MCP_SESSION_CHANGED = "mcp_session_changed"
    REQUEST_CANCELLED = "request_cancelled"
    REQUEST_ANSWERED = "request_answered"


@dataclass(frozen=True, slots=True)
class Signal:
    """A notification of this or another process; the ids name what it concerns.

    `mcp_session` is a client's transport session; `request_id` is the request that it cancelled, or the elicitation
    that it answered. `departure` says how a caller left who cancelled or went away: a word of ours, not the client's.
    """

    kind: SignalKind
    turn_id: TurnId | None = None
    session_id: SessionId | None = None
    user_id: UserId | None = None
    org_id: OrgId | None = None
    mcp_session: str | None = None
    request_id: str | None = None
    departure: str | None = None


class Signals(Protocol):
    """Signals between the processes of one database; delivered at most once, so receivers must also poll."""

    def subscribe(self, listener: Callable[[Signal], None]) -> Callable[[], None]:
        """Call the listener for every signal until the returned function is called."""
        ...

    def send(self, signal: Signal, *, hurry: bool = False) -> None:
        """Send a signal without waiting; those of a few milliseconds go out together, unless one is in a hurry."""
        ...
