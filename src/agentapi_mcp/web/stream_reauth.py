"""A stream lasts for hours, a token does not: what let its client in is asked for again, the stream ends with it."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import anyio

from agentapi_mcp.core.errors import AgentApiError, IssuerUnavailableError, StoreUnavailableError
from agentapi_mcp.core.identity import Principal

ADMISSION = "agentapi.admission"  # where an HTTP request's scope holds it
EVERY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Admission:
    """Whom a request was let in as; `again` asks anew, as for the next request."""

    principal: Principal
    again: Callable[[], Awaitable[Principal | None]]
    every: timedelta = EVERY

    async def over(self) -> None:
        """Wait until the same request would no longer be let in as the same."""
        while await self._holds():
            with anyio.move_on_after(self.every.total_seconds()):
                await anyio.sleep_forever()

    async def _holds(self) -> bool:
        try:
            return await self.again() == self.principal
        except (StoreUnavailableError, IssuerUnavailableError):
            return True  # nobody can be looked up just now
        except AgentApiError:
            return False


def admission_of(scope: Mapping[str, object]) -> Admission | None:
    """Return how a request was let in; None where nobody asked."""
    held = scope.get(ADMISSION)
    return held if isinstance(held, Admission) else None


@asynccontextmanager
async def ended_with(admission: Admission | None, end: Callable[[], object]) -> AsyncGenerator[None]:
    """Call `end` when the admission is over before the context is."""
    if admission is None:
        yield
        return

    async def watch(held: Admission) -> None:
        await held.over()
        end()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, admission)
        yield
        group.cancel_scope.cancel()
