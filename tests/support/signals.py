"""What processes tell each other over a real database, as a test hears it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.signals import PostgresSignals


@asynccontextmanager
async def listening(url: str) -> AsyncGenerator[PostgresSignals]:
    """Listen as another process on this database would."""
    begun, server = asyncio.Event(), RemoteServer(url)
    async with open_database(server, PoolOptions(max_size=1)) as database, asyncio.TaskGroup() as group:
        signals = PostgresSignals(server, database, SystemClock())
        running = group.create_task(signals.run(begun.set))
        await begun.wait()
        yield signals
        running.cancel()
