"""The host of this process's backends, and the view of the server that the guide reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TypeVar, cast

from typing_extensions import override

from agentapi_mcp.backends.guide.ports import ServerView
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.core.backends.ports import BackendHost

TYPE_CHECKING = False  # type checkers take it for true; a host that opens no services needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.catalogue.health import PartHealth
    from agentapi_mcp.core.catalogue.models import AgentView
    from agentapi_mcp.core.conversations.models import Session, Turn
    from agentapi_mcp.core.identity.principals import Principal
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.core.usage import models
else:
    models = LazyModule("agentapi_mcp.core.usage.models")

T = TypeVar("T")


class ProcessBackendHost(BackendHost):
    """Resources shared by all backends of this process."""

    def __init__(self, clock: Clock, environ: Mapping[str, str]) -> None:
        self._clock = clock
        self._environ = environ
        self._shared: dict[object, AbstractAsyncContextManager[object]] = {}
        self.view = LiveServerView()

    @property
    @override
    def clock(self) -> Clock:
        return self._clock

    @override
    def secret(self, name: str) -> str | None:
        return self._environ.get(name)

    @override
    def shared(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        if make not in self._shared:
            self._shared[make] = make()
        return cast("T", self._shared[make])

    async def aclose(self) -> None:
        """Close the shared objects, newest first."""
        while self._shared:
            # `popitem` removes the newest first.
            _, thing = self._shared.popitem()
            await thing.__aexit__(None, None, None)


class LiveServerView(ServerView):
    """A read-only view of the running server; empty until the services are attached."""

    def __init__(self) -> None:
        self._services: Services | None = None

    def attach(self, services: Services) -> None:
        """Show these services from now on."""
        self._services = services

    @override
    async def agents(self, principal: Principal) -> tuple[AgentView, ...]:
        if self._services is None:
            return ()
        return (await self._services.agents.list_(principal, limit=200)).items

    @override
    async def parts(self, principal: Principal) -> tuple[PartHealth, ...]:
        return () if self._services is None else (await self._services.health.report(principal)).parts

    @override
    async def recent_turns(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        if self._services is None:
            return ()
        # Some more, since running turns are left out below, the guide's own among them.
        turns = await self._services.turns.recent(principal, limit + 20)
        return tuple(turn for turn in turns if turn.status.is_final)[:limit]

    @override
    async def spent(self, principal: Principal, since: datetime, until: datetime) -> models.UsageSums:
        if self._services is None:
            return models.UsageSums()
        return (await self._services.usage.report(principal, models.UsageQuery(since=since, until=until))).total

    @override
    async def sessions(self, principal: Principal, limit: int) -> tuple[Session, ...]:
        if self._services is None:
            return ()
        return tuple((await self._services.sessions.list_(principal, limit=limit)).items)
