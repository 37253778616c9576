"""What a backend supplies to be tested: a peer, which stands in for its agent and misbehaves on demand."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID, uuid4

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId
from agentapi_mcp.core.access.principal_factory import local_owner
from agentapi_mcp.core.backends.models import BackendTurn


class Behaviour(StrEnum):
    """What an agent is made to do with a turn."""

    ANSWERS = "answers"
    RECALLS = "repeats what was said earlier in the session"
    WAITS = "says a piece, then nothing"
    HANGS = "says nothing"
    DRIPS = "goes on and on"
    CUT = "breaks off in mid-answer"
    DROPPED = "closes the connection unanswered"
    NONSENSE = "answers with nonsense"
    EMPTY = "answers with nothing"
    BAD_REQUEST = "refuses the request"
    UNAUTHORIZED = "refuses the credentials"
    NO_CREDIT = "wants money"
    FORBIDDEN = "does not allow it"
    UNKNOWN_MODEL = "does not know the model"
    BUSY = "has had too much, and says when to come back"
    BROKEN = "fails"
    BAD_GATEWAY = "fails behind itself"
    UNAVAILABLE = "is not there for now"
    OVERLOADED = "is overloaded"
    TOO_LONG = "finds the conversation too long"
    MODERATED = "finds the message improper"
    FAILS_LATE = "fails in mid-answer"
    LEAKS = "repeats the credentials in its refusal"


FAULTS: Mapping[Behaviour, BackendFault] = {
    Behaviour.BAD_REQUEST: BackendFault.BAD_REQUEST,
    Behaviour.UNAUTHORIZED: BackendFault.AUTH,
    Behaviour.NO_CREDIT: BackendFault.PAYMENT,
    Behaviour.FORBIDDEN: BackendFault.PERMISSION,
    Behaviour.UNKNOWN_MODEL: BackendFault.NOT_FOUND,
    Behaviour.BUSY: BackendFault.RATE_LIMIT,
    Behaviour.BROKEN: BackendFault.UPSTREAM,
    Behaviour.BAD_GATEWAY: BackendFault.UPSTREAM,
    Behaviour.UNAVAILABLE: BackendFault.OVERLOADED,
    Behaviour.OVERLOADED: BackendFault.OVERLOADED,
    Behaviour.TOO_LONG: BackendFault.CONTEXT_LENGTH,
    Behaviour.MODERATED: BackendFault.CONTENT_POLICY,
    Behaviour.DROPPED: BackendFault.CONNECTION,
    Behaviour.CUT: BackendFault.STREAM_CUT,
    Behaviour.NONSENSE: BackendFault.BAD_REPLY,
    Behaviour.EMPTY: BackendFault.BAD_REPLY,
    Behaviour.FAILS_LATE: BackendFault.UPSTREAM,
    Behaviour.LEAKS: BackendFault.AUTH,
}
"""What a backend must raise for each misbehaviour that is no matter of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The deadlines of the backend under test; the defaults are long enough for a busy machine."""

    connect: timedelta = timedelta(seconds=30)
    idle: timedelta = timedelta(seconds=30)
    total: timedelta = timedelta(seconds=60)


class Peer(Protocol):
    """A running stand-in for the agent of one backend."""

    def options(self, patience: Patience) -> Mapping[str, object]:
        """Return the options, as in the configuration file, of a backend that reaches this peer."""
        ...

    def turn(self, word: str) -> BackendTurn:
        """Make a turn to which the peer does what the word means, whatever is put before its message."""
        ...

    def credentials(self) -> Sequence[str | None]:
        """Return the credential of each turn that the peer was asked, oldest first; None for a turn without one."""
        ...

    async def asked(self) -> None:
        """Return once the peer was asked a turn."""
        ...

    async def freed(self) -> None:
        """Return once the peer has seen that nobody waits for its answer."""
        ...

    async def stop(self) -> None:
        """End the peer, so that it cannot be reached any more."""
        ...


class BackendCase(Protocol):
    """How one backend takes part in the contract suite."""

    @property
    def kind(self) -> str:
        """The backend's name in the configuration: that of its entry point."""
        ...

    @property
    def variants(self) -> tuple[str, ...]:
        """The ways in which the backend runs ("streamed", "whole"), each of which passes the suite."""
        ...

    @property
    def words(self) -> Mapping[Behaviour, str]:
        """The peer's word for each behaviour."""
        ...

    @property
    def not_applicable(self) -> Mapping[Behaviour, str]:
        """The behaviours that the agent cannot show, each with the reason."""
        ...

    @property
    def unreachable(self) -> str | None:
        """Why `Peer.stop` means nothing for this backend; None where it does."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """The operator's secrets, which no event, error or log line may hold."""
        ...

    def in_pieces(self, variant: str) -> bool:
        """Whether the answer comes in pieces."""
        ...

    def start(self, variant: str) -> AbstractAsyncContextManager[Peer]:
        """Start the peer for the time of an `async with`."""
        ...


def backend_turn(message: str = "hello", model_id: str | None = "stub") -> BackendTurn:
    """Make a turn of a new session."""
    return BackendTurn(
        turn_id=TurnId(uuid4()),
        session_id=SessionId(uuid4()),
        principal=local_owner(UserId(UUID(int=1)), OrgId(UUID(int=2))),
        message=message,
        model_id=model_id,
    )
