"""Signals between processes on one database."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId


class SignalKind(StrEnum):
    """What the processes that share a database tell each other."""

    CANCEL = "cancel"
    ENDED = "ended"
    SESSION_CHANGED = "session_changed"
    SESSIONS_CHANGED = "sessions_changed"
    CATALOGUE_CHANGED = "catalogue_changed"
    MCP_SESSION_CHANGED = "mcp_session_changed"
    REQUEST_CANCELLED = "request_cancelled"
    REQUEST_ANSWERED = "request_answered"


@dataclass(frozen=True, slots=True)
class Signal:
    """Something happened, here or in another process; the ids say whom it concerns.

    `mcp_session` names a client's transport session, `request_id` and `reason` the request that it takes back;
    of an answer, `request_id` names what the client was asked.
    """

    kind: SignalKind
    turn_id: TurnId | None = None
    session_id: SessionId | None = None
    user_id: UserId | None = None
    org_id: OrgId | None = None
    mcp_session: str | None = None
    request_id: str | None = None
    reason: str | None = None


class Signals(Protocol):
    """What processes on one database tell each other; at most once, so readers also look for themselves."""

    def subscribe(self, listener: Callable[[Signal], None]) -> Callable[[], None]:
        """Call the listener for every signal until the returned function is called."""
        ...
