"""What the contract suite needs of a backend: a peer, which stands in for its agent and misbehaves on demand."""

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
from agentapi_mcp.core.backends.events import StopReason
from agentapi_mcp.core.backends.models import BackendTurn


class Behaviour(StrEnum):
    """How the peer behaves in a turn."""

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
    FAILS_BY_NAME = "fails in mid-answer, and says so in a form that few use"
    ENDS_EARLY = "tells its end before it has said anything, and breaks off in mid-answer"
    LEAKS = "repeats the credentials in its refusal"
    REPEATS = "repeats the credentials in its answer, in pieces if it answers in pieces"
    EXPLAINS = "refuses a conversation that is too long, with REASON deep within its error"
    SAYS_WHEN = "has had too much, and says when to come back in BUSY_WORDS alone"
    COUNTS_IN_TEXT = "answers, and reports COUNTED tokens as texts or as floats"
    UNCOUNTED = "answers, and reports zeros because it does not count"
    ENDS_SHORT = "ends its answer at the limit of tokens"
    WITHHOLDS = "withholds the rest of its answer"
    PAUSES = "pauses before its answer is whole"
    LINGERS = "answers, and keeps the connection open"
    BABBLES = "answers, and then says what nobody can read"
    FAILS_AFTER = "answers, and then reports a failure"
    ODD = "answers, with signs of life and unknown parts in between"
    REASONS = "marks its reasoning at the beginning of the text of its answer"


REASON = "This model's maximum prompt length is 8 but the request contains 9 tokens"
BUSY_WORDS = "Rate limit reached. Please try again in 2.5s."
COUNTED = (11, 5)  # input, output


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
    Behaviour.FAILS_BY_NAME: BackendFault.RATE_LIMIT,
    Behaviour.ENDS_EARLY: BackendFault.STREAM_CUT,
    Behaviour.LEAKS: BackendFault.AUTH,
    Behaviour.EXPLAINS: BackendFault.CONTEXT_LENGTH,
    Behaviour.SAYS_WHEN: BackendFault.RATE_LIMIT,
}
"""The fault that a backend must raise for each misbehaviour that involves no deadline."""

REFUSED = frozenset(
    {
        Behaviour.BAD_REQUEST,
        Behaviour.UNAUTHORIZED,
        Behaviour.NO_CREDIT,
        Behaviour.FORBIDDEN,
        Behaviour.UNKNOWN_MODEL,
        Behaviour.BUSY,
        Behaviour.UNAVAILABLE,
        Behaviour.OVERLOADED,
        Behaviour.LEAKS,
        Behaviour.SAYS_WHEN,
    }
)
"""What an agent refuses before any work: the error must say that it is unbilled, and no other error may."""

STOPS: Mapping[Behaviour, StopReason] = {
    Behaviour.ENDS_SHORT: StopReason.LENGTH,
    Behaviour.WITHHOLDS: StopReason.CONTENT_FILTER,
    Behaviour.PAUSES: StopReason.PAUSED,
}
"""The reason that a backend must tell for each answer that has text, and is not whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDeadlines:
    """The deadlines of the backend under test; the defaults are long enough for a busy machine."""

    connect: timedelta = timedelta(seconds=30)
    idle: timedelta = timedelta(seconds=30)
    total: timedelta = timedelta(seconds=60)


class Peer(Protocol):
    """A running stand-in for the agent of one backend."""

    def options(self, deadlines: BackendDeadlines) -> Mapping[str, object]:
        """Return the options, as in the configuration file, of a backend that reaches this peer."""
        ...

    def turn(self, word: str) -> BackendTurn:
        """Build a turn in which the peer behaves as the word says, whatever text precedes it in the message."""
        ...

    def credentials(self) -> Sequence[str | None]:
        """Return the credential of each turn that the peer received, oldest first; None for a turn without one."""
        ...

    def limits(self) -> Sequence[int | None]:
        """Return the tokens that the answer to each turn may have, oldest first; None where the turn says nothing."""
        ...

    async def turn_received(self) -> None:
        """Return once the peer has received a turn."""
        ...

    async def freed(self) -> None:
        """Return once the peer has noticed that no client waits for its answer."""
        ...

    async def stop(self) -> None:
        """Stop the peer, so that it is unreachable."""
        ...


class BackendCase(Protocol):
    """How one backend takes part in the contract suite."""

    @property
    def kind(self) -> str:
        """The backend's name in the configuration, which is that of its entry point."""
        ...

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants of the backend ("streamed", "whole"); the suite runs for each."""
        ...

    @property
    def words(self) -> Mapping[Behaviour, str]:
        """The word that triggers each behaviour of the peer."""
        ...

    @property
    def not_applicable(self) -> Mapping[Behaviour, str]:
        """The behaviours that the agent cannot show, with the reasons."""
        ...

    @property
    def unreachable(self) -> str | None:
        """Why `Peer.stop` has no effect on this backend; None if it has one."""
        ...

    @property
    def bills_refusals(self) -> str | None:
        """Why a refusal of this agent may have cost something; None if it costs nothing."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """The operator's secrets, which no event, error or log line may contain."""
        ...

    def in_pieces(self, variant: str) -> bool:
        """Return whether the answer is streamed."""
        ...

    def start(self, variant: str) -> AbstractAsyncContextManager[Peer]:
        """Start the peer, which runs within the `async with`."""
        ...


def backend_turn(message: str = "hello", model_id: str | None = "stub") -> BackendTurn:
    """Build a turn of a new session."""
    return BackendTurn(
        turn_id=TurnId(uuid4()),
        session_id=SessionId(uuid4()),
        principal=local_owner(UserId(UUID(int=1)), OrgId(UUID(int=2))),
        message=message,
        model_id=model_id,
    )


def in_pieces(key: str) -> list[str]:
    """Write an answer of some pieces that repeats a key, of which no piece has the whole."""
    middle = len(key) // 2
    return [
        "Your key is ",
        key[:3],
        key[3:middle],
        f"{key[middle:]}, and again ",
        f"{key[:middle]}",
        key[middle:],
        " so.",
    ]
