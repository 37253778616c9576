"""Ports of backends: the interface to implement, and the services of the host."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol, TypeVar, runtime_checkable

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.core.backends.events import BackendEvent
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, OfferedModel

T = TypeVar("T")


class Capability(StrEnum):
    """Capabilities that a backend declares; `agentapi_mcp.testing.contract` tests each, declared or not."""

    # Continues from the state of the last Finished, also in another process; warns when the agent lost its memory.
    RESUME = "resume"
    # The provider charges nothing more once the iterator is closed.
    STOPS_BILLING = "stops_billing"
    # `check` measures, without cost; without this, it may always be UNKNOWN.
    FREE_CHECK = "free_check"
    # Answers for nothing from what is so at the moment: the same message is asked again, and joins no earlier turn.
    LIVE = "live"
    # Uses `BackendTurn.api_key` in place of the operator's; without this, it never sends that key.
    OWN_KEYS = "own_keys"
    # The same with `BackendTurn.access_token`, a bearer token of an account that the caller connected.
    OWN_ACCOUNTS = "own_accounts"
    # Has no models, and answers without; where the caller names one of another agent, `BackendTurn.writer` asks it.
    BORROWS_MODELS = "borrows_models"
    # Passes `BackendTurn.max_tokens` on, which bounds the whole answer; without this, nobody knows how long it gets.
    LIMITS_ANSWERS = "limits_answers"


class Backend(Protocol):
    """Connection to one agent."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The declared capabilities."""
        ...

    def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Run a turn: yield events, Finished last, or raise BackendError; closing the iterator stops the agent."""
        ...

    async def check(self) -> HealthCheck:
        """Check without a turn whether the agent can answer; a failed check is returned, not raised."""
        ...

    async def aclose(self) -> None:
        """Release resources that only this backend uses."""
        ...


@runtime_checkable
class ModelLister(Protocol):
    """What a backend is besides if its provider lists its models for nothing; `create` declares that type."""

    async def offered_models(self) -> Sequence[OfferedModel]:
        """Return the models of the provider's own list, or raise BackendError."""
        ...


class BackendHost(Protocol):
    """Services of the process for backends."""

    @property
    def clock(self) -> Clock:
        """The clock."""
        ...

    def secret(self, name: str) -> str | None:
        """Return the value of an environment variable that the operator's file may name."""
        ...

    def shared(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Return the process-wide object that `make` (a class or function) builds; the host closes it at the end."""
        ...
