"""The host of this process's backends, and the view of the server that the guide is given."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TypeVar, cast

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.core.catalogue.models import AgentView
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.services import Services

T = TypeVar("T")


class ProcessBackendHost:
    """What the backends of this process live from."""

    def __init__(self, clock: Clock, environ: Mapping[str, str]) -> None:
        self.clock = clock
        self._environ = environ
        self._shared: dict[object, AbstractAsyncContextManager[object]] = {}
        self.view = LiveServerView()

    def secret(self, name: str) -> str | None:
        """Look up an environment variable that the operator's file may name."""
        return self._environ.get(name)

    def shared(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Return the one object of the process that `make` builds, which closes itself as its own context."""
        if make not in self._shared:
            self._shared[make] = make()
        return cast("T", self._shared[make])

    async def aclose(self) -> None:
        """Close what the backends shared."""
        while self._shared:
            _, thing = self._shared.popitem()
            await thing.__aexit__(None, None, None)


class LiveServerView:
    """The read-only view of the server, once there is one to see."""

    def __init__(self) -> None:
        self._services: Services | None = None

    def show(self, services: Services) -> None:
        """Begin to show the server."""
        self._services = services

    async def agents(self, principal: Principal) -> tuple[AgentView, ...]:
        """List the agents as they are now."""
        if self._services is None:
            return ()
        return (await self._services.agents.list_(principal, limit=200)).items

    async def recent_turns(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        """List the principal's newest turns that have ended, newest first."""
        if self._services is None:
            return ()
        turns = await self._services.turns.recent(principal, limit + 20)
        return tuple(turn for turn in turns if turn.status.is_final)[:limit]
