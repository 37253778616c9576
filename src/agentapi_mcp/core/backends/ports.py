"""What a backend implements, and what it may use of the process."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol, TypeVar

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.core.backends.events import BackendEvent
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck

T = TypeVar("T")


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
