"""What processes tell each other over a real database, as a test hears it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.stores.postgres.database import RemoteServer
from agentapi_mcp.stores.postgres.signals import PostgresSignals


@asynccontextmanager
async def listening(url: str) -> AsyncGenerator[PostgresSignals]:
    """Listen as another process on this database would."""
    signals, begun = PostgresSignals(RemoteServer(url), SystemClock()), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(signals.run(begun.set))
        await begun.wait()
        yield signals
        running.cancel()
