"""What the core needs from outside beside the stores, as Protocols: time, seals, and the backends with their host."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, TypeVar

from agentapi_mcp.core.events import BackendEvent
from agentapi_mcp.core.records.backends import BackendTurn
from agentapi_mcp.core.records.health import HealthCheck

T = TypeVar("T")


class Clock(Protocol):
    """Time, injected, so that no test waits for it."""

    def now(self) -> datetime:
        """Tell the time of day, in UTC."""
        ...

    def monotonic(self) -> float:
        """Tell seconds that never go back."""
        ...

    async def sleep(self, duration: timedelta) -> None:
        """Wait."""
        ...


class Sealer(Protocol):
    """Seals secrets for the place where they are kept, named from the table to the row: elsewhere they do not open."""

    @property
    def key_id(self) -> str:
        """The id of the master key that seals now."""
        ...

    def seal(self, plain: str, bound_to: Sequence[str]) -> bytes:
        """Seal a text for this place."""
        ...

    def open_(self, sealed: bytes, bound_to: Sequence[str]) -> str:
        """Open what was sealed for this place.

        Raises:
            ConfigurationError: the master key that sealed it is not given.
            StoreError: it was not sealed here, or changed since.
        """
        ...


class Capability(StrEnum):
    """What a backend declares that it can do; `agentapi_mcp.testing.contract` tests each, declared or not."""

    # Goes on from the state of the last turn's Finished alone, in another process too; says when that memory is lost.
    RESUME = "resume"
    # The provider charges nothing more once the iterator is closed.
    STOPS_BILLING = "stops_billing"
    # `check` measures, without cost; without this, it may always be UNKNOWN.
    FREE_CHECK = "free_check"
    # Takes `BackendTurn.api_key` in place of the operator's; without this, it sends that key nowhere.
    OWN_KEYS = "own_keys"


class Backend(Protocol):
    """How one agent is reached."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Declare what core may rely on."""
        ...

    def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Answer: events in order, one Finished last, or a BackendError; closing the iterator stops the agent."""
        ...

    async def check(self) -> HealthCheck:
        """Measure without a turn whether the agent can answer, or be UNKNOWN; never raises for what it measures."""
        ...

    async def aclose(self) -> None:
        """Free what this backend alone holds."""
        ...


class BackendHost(Protocol):
    """What a backend is given to live from."""

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    def secret(self, name: str) -> str | None:
        """Look up an environment variable that the operator's file may name."""
        ...

    def shared(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Return the one object of the process that `make` (a class or function) builds; the host closes it last."""
        ...
