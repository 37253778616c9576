"""Reference counting of backends, so that a replaced one is closed only after its last turn has ended."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from typing_extensions import override

from agentapi_mcp.core.backends.events import BackendEvent
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck
from agentapi_mcp.core.backends.ports import Backend, Capability


class RefCountedBackend(Backend):
    """Delegates to a backend and counts its running turns and checks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._users = 0

    @property
    def in_use(self) -> bool:
        """Whether a turn or a check is running."""
        return self._users > 0

    @property
    @override
    def capabilities(self) -> frozenset[Capability]:
        return self._backend.capabilities

    @override
    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Run a turn and count it while its events are consumed."""
        self._users += 1
        try:
            # Closing this iterator must close the backend's at once, not at its garbage collection.
            async with aclosing(self._backend.run(turn)) as events:
                async for event in events:
                    yield event
        finally:
            self._users -= 1

    @override
    async def check(self) -> HealthCheck:
        """Run the backend's health check and count it."""
        self._users += 1
        try:
            return await self._backend.check()
        finally:
            self._users -= 1

    @override
    async def aclose(self) -> None:
        await self._backend.aclose()
