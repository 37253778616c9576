"""What processes tell each other over a real database, as a test hears it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
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


async def channel_of(database: Database) -> str:
    """Read the name of the channel, as the program does."""
    async with database.as_system("test") as connection:
        return await connection.fetchval("SELECT value FROM agentapi.facts WHERE name = 'signal_channel'")


async def payloads_of(connection: "asyncpg.Connection[asyncpg.Record]", channel: str) -> asyncio.Queue[str]:
    """Listen on a channel, and receive the payloads."""
    received = asyncio.Queue[str]()

    def receive(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        received.put_nowait(str(payload))

    await connection.add_listener(channel, receive)
    return received
