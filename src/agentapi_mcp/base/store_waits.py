"""How long a request waits for the store before it does what it was sent for."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from agentapi_mcp.base.deadlines import done_within
from agentapi_mcp.base.errors import StoreUnavailableError

# Far less than a statement may take: a store that hangs is told of while the caller still waits.
STORE_SECONDS = 4.0
_LATE = "The database does not answer in time. Try again in a moment."

T = TypeVar("T")


async def answered_within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Read what nothing depends on but this request, and what is mostly known without the store.

    Raises:
        StoreUnavailableError: it takes longer.
    """
    try:
        return await done_within(seconds, work)
    except TimeoutError as exc:
        raise StoreUnavailableError(_LATE) from exc


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
        raise StoreUnavailableError(_LATE) from exc
