"""How a kind of backend takes part in the contract suite: its case builds it beside an agent that misbehaves on demand.

A kind's case is `CASE` in `tests/support/peers/<kind>.py`.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast
from uuid import UUID, uuid4

from agentapi_mcp.core.identity import OrgId, Principal, UserId
from agentapi_mcp.core.ports import Backend, BackendHost
from agentapi_mcp.core.records.backends import BackendTurn
from agentapi_mcp.core.records.ids import SessionId, TurnId


class Behaviour(StrEnum):
    """What an agent is made to do with a turn."""

    ANSWERS = "answers"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The deadlines that the backend under test is given."""

    connect: timedelta = timedelta(seconds=5)
    idle: timedelta = timedelta(seconds=5)
    total: timedelta = timedelta(seconds=8)


class Rig(Protocol):
    """A backend beside its agent."""

    @property
    def backend(self) -> Backend:
        """The backend under test."""
        ...

    def turn(self, behaviour: Behaviour) -> BackendTurn:
        """Make a turn that provokes this behaviour."""
        ...

    async def asked(self) -> None:
        """Return once the agent has the turn before it."""
        ...

    async def freed(self) -> None:
        """Return once the agent has seen that nobody waits for it."""
        ...

    async def stop(self) -> None:
        """End the agent, so that it cannot be reached any more."""
        ...


class BackendCase(Protocol):
    """What a kind supplies."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The ways in which the kind runs ("streamed", "whole"), each of which passes the suite."""
        ...

    @property
    def not_applicable(self) -> Mapping[Behaviour, str]:
        """What cannot happen to this kind, and why."""
        ...

    @property
    def unreachable(self) -> str | None:
        """Why `Rig.stop` has no meaning for this kind; None where it has."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """What may never be seen."""
        ...

    def in_pieces(self, variant: str) -> bool:
        """Whether the answer comes in pieces."""
        ...

    def open(self, variant: str, host: BackendHost, patience: Patience) -> AbstractAsyncContextManager[Rig]:
        """Start the agent and build the backend beside it."""
        ...


def has_case(kind: str) -> bool:
    """Tell whether a kind supplies a case."""
    return find_spec(f"tests.support.peers.{kind}") is not None


def case_of(kind: str) -> BackendCase:
    """Load a kind's case."""
    return cast(BackendCase, import_module(f"tests.support.peers.{kind}").CASE)


def backend_turn(message: str = "hello", model_id: str | None = "stub") -> BackendTurn:
    """Make a turn of somebody."""
    return BackendTurn(
        turn_id=TurnId(uuid4()),
        session_id=SessionId(uuid4()),
        principal=Principal(UserId(UUID(int=1)), OrgId(UUID(int=2))),
        message=message,
        model_id=model_id,
    )
