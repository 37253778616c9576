"""Connections that are kept for their next use."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

import asyncpg
import pytest
from anyio.lowlevel import checkpoint

from agentapi_mcp.stores.postgres.pool import Pool, Row
from tests.support.databases import DatabaseUrls
from tests.support.waiting import wait_until

LONG = timedelta(hours=1)


class Dialled:
    """Connects, and counts how often."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[asyncpg.Connection[Row]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> "asyncpg.Connection[Row]":
        """Connect, and hand it over once the gate is open."""
        connection = await asyncpg.connect(self.url)
        self.made.append(connection)
        await self.gate.wait()
        return connection


@pytest.fixture
async def dialled(database_urls: DatabaseUrls) -> AsyncGenerator[Dialled]:
    dialled = Dialled(database_urls.app)
    yield dialled
    for connection in dialled.made:
        connection.terminate()


async def test_the_connection_that_was_used_last_is_used_next(dialled: Dialled) -> None:
    pool = Pool(dialled, LONG)
    first, second = await pool.acquire(), await pool.acquire()
    pool.release(second)
    pool.release(first)
    assert await pool.acquire() is first
    assert await pool.acquire() is second
    assert len(dialled.made) == 2


async def test_a_connection_that_was_closed_meanwhile_is_not_used_again(dialled: Dialled) -> None:
    pool = Pool(dialled, LONG)
    lost, closed = await pool.acquire(), await pool.acquire()
    pool.release(lost)
    await lost.close()
    await closed.close()
    pool.release(closed)
    assert await (await pool.acquire()).fetchval("SELECT 1") == 1
    assert len(dialled.made) == 3


async def test_giving_a_connection_back_starts_nothing(dialled: Dialled) -> None:
    pool = Pool(dialled, LONG)
    raw = await pool.acquire()
    pool.release(raw)
    tasks = asyncio.all_tasks()
    for _ in range(10):
        pool.release(await pool.acquire())
    assert asyncio.all_tasks() == tasks
    assert await raw.fetchval("SELECT 1") == 1


async def test_only_what_is_idle_for_long_is_closed(dialled: Dialled) -> None:
    pool = Pool(dialled, timedelta(milliseconds=50))
    used, *idle = [await pool.acquire() for _ in range(3)]
    for raw in idle:
        pool.release(raw)
    await asyncio.to_thread(wait_until, lambda: all(raw.is_closed() for raw in idle))
    assert await used.fetchval("SELECT 1") == 1
    pool.release(used)
    await asyncio.to_thread(wait_until, used.is_closed)


async def test_an_end_closes_what_is_idle_in_use_and_being_made(dialled: Dialled) -> None:
    pool = Pool(dialled, LONG)
    idle, used = await pool.acquire(), await pool.acquire()
    pool.release(idle)
    dialled.gate.clear()
    taken = await pool.acquire()
    making = asyncio.ensure_future(pool.acquire())
    while len(dialled.made) < 3:
        await checkpoint()
    pool.terminate()
    dialled.gate.set()
    with pytest.raises(asyncpg.InterfaceError):
        await making
    assert [raw.is_closed() for raw in (idle, used, taken, *dialled.made)] == [True] * 6
    pool.release(used)
    with pytest.raises(asyncpg.InterfaceError):
        await pool.acquire()
    assert len(dialled.made) == 3
