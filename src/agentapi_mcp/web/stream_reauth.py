"""Repeated authentication of open streams, which outlast the tokens that opened them."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import anyio

from agentapi_mcp.base.errors import AgentApiError, IssuerUnavailableError, StoreUnavailableError
from agentapi_mcp.core.identity.principals import Principal

GRANT = "agentapi.stream_grant"  # scope key of the grant
# The longest that a stream outlives a revoked token.
REAUTHENTICATE_EVERY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class StreamGrant:
    """The principal that a request was authenticated as; `reauthenticate` verifies its token again."""

    principal: Principal
    reauthenticate: Callable[[], Awaitable[Principal | None]]
    every: timedelta = REAUTHENTICATE_EVERY

    async def wait_expired(self) -> None:
        """Return once the token is no longer valid for the same principal."""
        while await self._is_valid():
            with anyio.move_on_after(self.every.total_seconds()):
                await anyio.sleep_forever()

    async def _is_valid(self) -> bool:
        try:
            return await self.reauthenticate() == self.principal
        except (StoreUnavailableError, IssuerUnavailableError):
            return True  # an outage must not end every stream
        except AgentApiError:
            return False


def grant_of(scope: Mapping[str, object]) -> StreamGrant | None:
    """Return the grant of a request; None if it was not authenticated."""
    grant = scope.get(GRANT)
    return grant if isinstance(grant, StreamGrant) else None


@asynccontextmanager
async def closed_on_expiry(grant: StreamGrant | None, end: Callable[[], object]) -> AsyncGenerator[None]:
    """Call `end` if the grant expires within the context."""
    if grant is None:
        yield
        return

    async def watch(grant: StreamGrant) -> None:
        await grant.wait_expired()
        end()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, grant)
        yield
        group.cancel_scope.cancel()
