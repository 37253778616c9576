"""Connections to Postgres: who leaves in the middle of something leaves nothing behind."""

import asyncio
import logging
import socket
from dataclasses import dataclass
from datetime import timedelta

import anyio
import anyio.lowlevel
import pytest
from typing_extensions import override

from agentapi_mcp.base.errors import StoreError, StoreUnavailableError
from agentapi_mcp.base.exceptions import notes_of
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, Server, open_database
from tests.conftest import DatabaseUrls
from tests.support.wires import Break, open_wire

ONE = PoolOptions(max_size=1)  # whoever comes next gets the connection of whoever left


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def one(database: Database) -> int:
    async with database.as_system("a test") as connection:
        return await connection.fetchval("SELECT 1")


async def test_who_leaves_in_the_middle_of_a_statement_leaves_no_transaction(
    database: Database, database_urls: DatabaseUrls, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_database(RemoteServer(database_urls.app), ONE) as left:

        async def ask() -> None:
            async with left.as_system("a test") as connection:
                await connection.execute("SELECT pg_advisory_xact_lock(4711)")

        async with database.as_system("a test") as holder, anyio.create_task_group() as group:
            await holder.execute("SELECT pg_advisory_xact_lock(4711)")
            group.start_soon(ask)
            while not await holder.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE objid = 4711 AND NOT granted)"):
                pass
            group.cancel_scope.cancel()
        assert await one(left) == 1
    assert warned(caplog) == []


@pytest.mark.parametrize("steps", range(24))
async def test_who_leaves_at_any_step_leaves_no_transaction(
    steps: int, database_urls: DatabaseUrls, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_database(RemoteServer(database_urls.app), ONE) as left:
        async with anyio.create_task_group() as group:
            group.start_soon(one, left)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        async with asyncio.timeout(25):
            assert await one(left) == 1
    assert warned(caplog) == []


@dataclass
class SilentServer(Server):
    """A server that takes connections and says nothing; `recovered` counts the attempts to start it again."""

    port: int
    recovered: int = 0

    @override
    async def url(self) -> str:
        return f"postgresql://login@127.0.0.1:{self.port}/any"

    @override
    async def recover(self) -> str:
        self.recovered += 1
        return await self.url()


async def test_a_server_that_hangs_is_waited_for_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = SilentServer(listener.getsockname()[1])
        options = PoolOptions(max_size=1, acquire_timeout=timedelta(seconds=0.2))
        with pytest.raises(StoreUnavailableError, match="it does not answer in time"):
            async with open_database(server, options):
                raise AssertionError
    assert server.recovered == 0


async def test_a_server_may_take_longer_to_start_than_to_connect(database_urls: DatabaseUrls) -> None:
    within = timedelta(seconds=2)

    @dataclass
    class Starting(Server):
        """A server that is not there yet, as an embedded one at its first start."""

        started: bool = False

        @override
        async def url(self) -> str:
            if not self.started:
                await asyncio.sleep(1.1 * within.total_seconds())  # noqa: TID251  # it takes that long
                self.started = True
            return database_urls.app

        @override
        async def recover(self) -> str:
            return await self.url()

    async with open_database(Starting(), PoolOptions(acquire_timeout=within)) as database:
        assert await one(database) == 1


async def test_a_transaction_that_hangs_as_it_begins_is_not_begun_again(database_urls: DatabaseUrls) -> None:
    options = PoolOptions(max_size=2, command_timeout=timedelta(seconds=1))  # in which the server answers
    async with open_wire(database_urls.app) as (wire, url), open_database(RemoteServer(url), options) as database:
        wire.break_at("BEGIN", Break.SILENT)
        with pytest.raises(StoreUnavailableError, match="it does not answer in time"):
            await one(database)
        assert await one(database) == 1


async def test_a_transaction_whose_connection_was_lost_is_begun_again(database_urls: DatabaseUrls) -> None:
    async with open_wire(database_urls.app) as (wire, url), open_database(RemoteServer(url), ONE) as database:
        wire.break_at("BEGIN", Break.BEFORE)
        assert await one(database) == 1
        assert wire.broken == 1


async def test_it_is_known_whether_the_server_has_answered_lately(database_urls: DatabaseUrls) -> None:
    async with open_database(RemoteServer(database_urls.app), ONE) as database:
        assert not database.has_answered_within(timedelta(hours=1))
        await one(database)
        assert database.has_answered_within(timedelta(hours=1))
        assert not database.has_answered_within(timedelta(0))


async def test_what_postgres_refuses_is_noted_for_the_operator_and_not_told_to_callers(database: Database) -> None:
    with pytest.raises(StoreError) as refused:
        async with database.as_system("a test") as connection:
            await connection.execute("DO $$ BEGIN RAISE EXCEPTION 'no more rows'; END $$")
    assert "no more rows" not in str(refused.value)
    assert notes_of(refused.value) == ("Postgres: no more rows (SQLSTATE P0001).",)
