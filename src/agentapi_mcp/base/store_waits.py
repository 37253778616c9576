"""How long a request waits for the store before it does what it was sent for."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from agentapi_mcp.base.errors import StoreUnavailableError

# Far less than a statement may take: a store that hangs is told of while the caller still waits.
STORE_SECONDS = 4.0


@asynccontextmanager
async def store_answers_within(seconds: float = STORE_SECONDS) -> AsyncGenerator[None]:
    """Bound reads that nothing depends on but this request.

    Raises:
        StoreUnavailableError: they take longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise StoreUnavailableError("The database does not answer in time. Try again in a moment.") from exc
