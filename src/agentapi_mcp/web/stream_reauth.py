"""A stream lasts for hours, a token does not: what let its client in is asked for again, the stream ends with it."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import anyio

from agentapi_mcp.base.errors import AgentApiError, IssuerUnavailableError, StoreUnavailableError
from agentapi_mcp.core.identity.principals import Principal

GRANT = "agentapi.admission"  # where an HTTP request's scope holds it
REAUTHENTICATE_EVERY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class StreamGrant:
    """Whom a request was let in as; `again` asks anew, as for the next request."""

    principal: Principal
    again: Callable[[], Awaitable[Principal | None]]
    every: timedelta = REAUTHENTICATE_EVERY

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


def grant_of(scope: Mapping[str, object]) -> StreamGrant | None:
    """Return how a request was let in; None where nobody asked."""
    held = scope.get(GRANT)
    return held if isinstance(held, StreamGrant) else None


@asynccontextmanager
async def closed_on_expiry(admission: StreamGrant | None, end: Callable[[], object]) -> AsyncGenerator[None]:
    """Call `end` when the admission is over before the context is."""
    if admission is None:
        yield
        return

    async def watch(held: StreamGrant) -> None:
        await held.over()
        end()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, admission)
        yield
        group.cancel_scope.cancel()
