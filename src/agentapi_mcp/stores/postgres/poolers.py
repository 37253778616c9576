"""Telling a connection pooler in transaction mode, which speaks as Postgres does, by what becomes of connections."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from agentapi_mcp.stores.postgres.pool import Row

_TRIES = 3
_PATIENCE = 3.0  # seconds; a pooler in session mode that has no other connection lets the second client wait


async def stands_before(raw: "asyncpg.Connection[Row]") -> bool:
    """Return whether another process runs our statements than the one that greeted us: poolers give ids of theirs."""
    return not await _is_run_by(raw, raw.get_server_pid())


async def pools_transactions(connect: Callable[[], Awaitable["asyncpg.Connection[Row]"]]) -> bool:
    """Return whether two clients have the same connection of the server by turns, or one has several.

    `connect` gives connections without a statement cache. A pooler in session mode gives each client one to keep.
    """
    one = await connect()
    try:
        pid = await one.fetchval("SELECT pg_backend_pid()")
        two = await connect()
        try:
            async with asyncio.timeout(_PATIENCE):
                for _ in range(_TRIES):
                    # Twice in a row, for a pooler that goes from one connection to the next.
                    if await _is_run_by(two, pid) or not (await _is_run_by(one, pid) and await _is_run_by(one, pid)):
                        return True
        except TimeoutError:
            return False
        finally:
            two.terminate()
    finally:
        one.terminate()
    return False


async def _is_run_by(raw: "asyncpg.Connection[Row]", pid: int) -> bool:
    # A simple query, which leaves no prepared statement behind, and of which nothing is told but how many rows it has.
    sql = f"SELECT FROM (SELECT) AS one WHERE pg_backend_pid() = {int(pid)}"
    return await raw.execute(sql) == "SELECT 1"
