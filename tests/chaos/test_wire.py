"""The wire between a replica and Postgres: cut before a commit arrives, or after it, and never anywhere else."""

import asyncio
import random
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import pytest
from chaos.postgres import OWNER, Postgres, Programs
from chaos.wire import Wire
from chaos.world import open_place

_TABLES = """
CREATE SCHEMA agentapi;
CREATE TABLE agentapi.accepted (number integer);
CREATE FUNCTION agentapi.begin_turn_1(number integer) RETURNS integer LANGUAGE sql AS
    $$ INSERT INTO agentapi.accepted VALUES (number) RETURNING number $$
"""
_BEGIN = "SELECT agentapi.begin_turn_1($1)"
_LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)


@pytest.fixture(scope="session")
async def postgres() -> AsyncGenerator[Postgres]:
    """Return a server of the harness, with what the engine of turns might have."""
    with open_place() as place:
        made = Postgres(await asyncio.to_thread(Programs.copied_to, place), Path(place) / "postgres")
        await made.make()
        connection = await asyncpg.connect(made.url(OWNER))
        await connection.execute(_TABLES)
        await connection.close()
        yield made
        await made.stop()


@pytest.fixture
async def wire(postgres: Postgres) -> AsyncGenerator[Wire]:
    """Return a wire to it, and begin with an empty table."""
    connection = await asyncpg.connect(postgres.url(OWNER))
    await connection.execute("TRUNCATE agentapi.accepted")
    await connection.close()
    async with Wire(postgres.port, random.Random(1)).open() as opened:  # noqa: S311  # chance, and no secrets
        yield opened


async def accepted(postgres: Postgres) -> list[int]:
    connection = await asyncpg.connect(postgres.url(OWNER))
    try:
        return [row["number"] for row in await connection.fetch("SELECT number FROM agentapi.accepted ORDER BY 1")]
    finally:
        await connection.close()


async def test_a_wire_without_faults_changes_nothing(postgres: Postgres, wire: Wire) -> None:
    connection = await asyncpg.connect(postgres.url(OWNER, wire.port))
    assert [await connection.fetchval(_BEGIN, number) for number in (1, 2)] == [1, 2]
    assert len(await connection.fetchval("SELECT repeat('x', 1000000)")) == 1_000_000
    await connection.close()
    assert (await accepted(postgres), wire.cuts) == ([1, 2], 0)


@pytest.mark.parametrize(("side", "stands"), [("before", False), ("after", True)])
@pytest.mark.parametrize("way", ["commit", "statement", "prepared statement"])
async def test_a_commit_is_cut_on_the_side_that_was_chosen(
    postgres: Postgres, wire: Wire, side: str, *, stands: bool, way: str
) -> None:
    connection = await asyncpg.connect(postgres.url(OWNER, wire.port))
    match way:
        case "commit":
            await connection.execute("BEGIN; INSERT INTO agentapi.accepted VALUES (7)")
            write = connection.execute("COMMIT")
        case "statement":
            write = connection.execute("SELECT agentapi.begin_turn_1(7)")
        case _:
            write = (await connection.prepare(_BEGIN)).fetchval(7)
    setattr(wire, f"cut_{side}", 1.0)
    with pytest.raises(_LOST):
        await write
    assert wire.cuts == 1
    wire.mend()
    assert await accepted(postgres) == ([7] if stands else [])


async def test_what_commits_nothing_is_never_cut(postgres: Postgres, wire: Wire) -> None:
    connection = await asyncpg.connect(postgres.url(OWNER, wire.port))
    wire.cut_before = wire.cut_after = 1.0
    assert await connection.fetchval("SELECT 'COMMIT'") == "COMMIT"
    await connection.execute("BEGIN; SELECT 1")
    await connection.execute("ROLLBACK")
    assert wire.cuts == 0
    await connection.close()


async def test_a_silent_wire_loses_nothing(postgres: Postgres, wire: Wire) -> None:
    connection = await asyncpg.connect(postgres.url(OWNER, wire.port))
    wire.silence(silent=True)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(connection.fetchval(_BEGIN, 3))
        assert await accepted(postgres) == []
        wire.silence(silent=False)
    assert waiting.result() == 3
    await connection.close()
