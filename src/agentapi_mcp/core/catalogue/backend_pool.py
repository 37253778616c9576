"""A backend that may be replaced while turns use it: it is closed only when the last of them has ended."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from agentapi_mcp.core.backends.events import BackendEvent
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck
from agentapi_mcp.core.backends.ports import Backend, Capability


class RefCountedBackend:
    """Passes all on to a backend, and counts who uses it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._users = 0

    @property
    def in_use(self) -> bool:
        """Whether a turn or a check runs in it now."""
        return self._users > 0

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Declare what core may rely on."""
        return self._backend.capabilities

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Answer."""
        self._users += 1
        try:
            async with aclosing(self._backend.run(turn)) as events:
                async for event in events:
                    yield event
        finally:
            self._users -= 1

    async def check(self) -> HealthCheck:
        """Measure without cost whether the agent can answer."""
        self._users += 1
        try:
            return await self._backend.check()
        finally:
            self._users -= 1

    async def aclose(self) -> None:
        """Free what the backend holds."""
        await self._backend.aclose()
