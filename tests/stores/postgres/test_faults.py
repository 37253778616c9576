"""What the database fails with, in words: the reason, and whether something was changed where that is known."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from agentapi_mcp.base.errors import (
    StoreBusyError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
    StoreUnclearError,
)
from agentapi_mcp.base.exceptions import notes_of
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from tests.conftest import DatabaseUrls
from tests.support.wires import Break, open_wire

ANN = Principal(UserId(new_id()), OrgId(new_id()))
KEPT = "INSERT INTO agentapi.kept_by_a_test VALUES (1)"


async def failed(database: Database, sqlstate: str) -> StoreError:
    """Return the error for what Postgres reports with this code."""
    with pytest.raises(StoreError) as error:
        await _raise(database, sqlstate)
    return error.value


async def _raise(database: Database, sqlstate: str) -> None:
    async with database.as_system("a test") as connection:
        await connection.execute("SELECT set_config('test.code', $1, true)", sqlstate)
        await connection.execute(
            "DO $$ BEGIN RAISE EXCEPTION 'its words' USING ERRCODE = current_setting('test.code'); END $$"
        )


@pytest.mark.parametrize(
    ("sqlstate", "says", "next_step"),
    [
        ("53100", "its disk is full", "Make room on it"),
        ("53200", "it has no memory left", "in a moment"),
        ("53300", "it has no connection left", "in a moment"),
        ("53000", "it lacks the resources for this", "in a moment"),
        (
            "25006",
            "it is read-only, as a standby is, or a hosted one whose disk is full",
            "Make room, or check AGENTAPI_DATABASE_URL",
        ),
        ("58030", "it cannot read or write its files", "Its own log"),
        ("55P03", "Another transaction holds what this needs", "in a moment"),
        ("40P01", "Another transaction changed the same at the same time", "in a moment"),
        ("40001", "Another transaction changed the same at the same time", "in a moment"),
        ("0A000", "The database refused this", "The log"),
        ("25P03", "it closed a connection that took too long", "in a moment"),
        ("25P04", "it closed a connection that took too long", "in a moment"),
        ("57P05", "it closed a connection that took too long", "in a moment"),
        ("57014", "it does not answer in time", "in a moment"),
        ("57P01", "it is starting, stopping, or closes connections", "in a moment"),
        ("57P02", "it is starting, stopping, or closes connections", "in a moment"),
        ("57P03", "it is starting, stopping, or closes connections", "in a moment"),
        ("57P04", "it has no database of this name", "Check AGENTAPI_DATABASE_URL"),
        ("28000", "it refuses the user or the password", "Check AGENTAPI_DATABASE_URL"),
        ("3D000", "it has no database of this name", "Check AGENTAPI_DATABASE_URL"),
        ("08006", "the connection to it is lost or refused", "in a moment"),
        ("53400", "A limit of the database's configuration is too low for this", "The log"),
        ("54000", "This is more than the database can process at once", "The log"),
        ("54001", "This is more than the database can process at once", "The log"),
        ("54023", "This is more than the database can process at once", "The log"),
        ("23505", "The database refused this", "The log"),
        ("XX001", "The database refused this", "The log"),
    ],
)
async def test_each_class_of_error_is_told_as_what_it_is(
    sqlstate: str, says: str, next_step: str, database: Database
) -> None:
    error = await failed(database, sqlstate)
    told, _, step = str(error).partition("; nothing was changed. ")
    kind = (
        StoreError
        if next_step == "The log"
        else StoreBusyError
        if says.startswith("Another")
        else StoreUnavailableError
    )
    assert type(error) is kind
    assert error.retryable is (kind is not StoreError)
    assert told == (f"The database cannot be used: {says}" if kind is StoreUnavailableError else says)
    assert next_step in step
    # Postgres' own words are for the operator, where the statement itself is at fault.
    assert notes_of(error) == ((f"Postgres: its words (SQLSTATE {sqlstate}).",) if kind is StoreError else ())


@pytest.mark.parametrize(("sqlstate", "says"), [("42P01", "migrate"), ("26000", "AGENTAPI_STATEMENT_CACHE=false")])
async def test_a_misfit_is_told_with_what_mends_it(sqlstate: str, says: str, database: Database) -> None:
    error = await failed(database, sqlstate)
    assert isinstance(error, StoreMismatchError)
    assert says in str(error)


@pytest.mark.parametrize("sqlstate", ["08007", "40003"])
async def test_where_the_server_itself_does_not_know_nothing_else_is_said(sqlstate: str, database: Database) -> None:
    check_unclear(await failed(database, sqlstate))


def check_unclear(error: StoreError) -> None:
    """Check that an error says that it is not known whether the change was made."""
    assert isinstance(error, StoreUnclearError)
    assert "it is not known whether the change was made" in str(error)
    assert "nothing was changed" not in str(error)
    assert not error.retryable


async def test_a_statement_of_before_a_migration_is_one_to_try_again(own_database: DatabaseUrls) -> None:
    owner = await asyncpg.connect(own_database.owner)
    await _create_table(owner)
    async with open_database(RemoteServer(own_database.app), PoolOptions(max_size=1)) as database:

        async def read() -> None:
            async with database.as_system("a test") as connection:
                await connection.fetch("SELECT * FROM agentapi.kept_by_a_test")

        await read()
        await owner.execute("ALTER TABLE agentapi.kept_by_a_test ADD COLUMN more text")
        with pytest.raises(StoreUnavailableError, match="its schema was changed a moment ago; nothing was changed"):
            await read()
        await read()
    await owner.close()


@pytest.mark.parametrize(("how", "kept"), [(Break.AFTER, 1), (Break.BEFORE, 0), (Break.SILENT, 1)], ids=str)
async def test_what_became_of_a_change_whose_commit_is_not_confirmed_is_not_claimed(
    how: Break, kept: int, own_database: DatabaseUrls
) -> None:
    options = PoolOptions(max_size=2, command_timeout=timedelta(seconds=3 if how is Break.SILENT else 25))
    owner = await asyncpg.connect(own_database.owner)
    await _create_table(owner)
    async with (
        open_wire(own_database.app) as (wire, url),
        open_database(RemoteServer(url), options) as database,
    ):
        wire.break_at("COMMIT", how)
        with pytest.raises(StoreError) as lost:
            async with database.as_system("a test") as connection:
                await connection.execute(KEPT)
        check_unclear(lost.value)
        assert wire.broken == 1
        # The server may need a moment to see that the connection is gone, and rolls back then.
        async with asyncio.timeout(25):
            await owner.execute("BEGIN; LOCK TABLE agentapi.kept_by_a_test; COMMIT")
        assert await owner.fetchval("SELECT count(*) FROM agentapi.kept_by_a_test") == kept
        async with database.as_system("a test") as connection:  # the pool has other connections
            assert await connection.fetchval("SELECT 1") == 1
    await owner.close()


async def test_a_server_that_does_not_begin_a_transaction_is_not_waited_for_as_for_a_statement(
    own_database: DatabaseUrls,
) -> None:
    options = PoolOptions(begin_timeout=timedelta(seconds=1), command_timeout=timedelta(hours=1))
    async with open_wire(own_database.app) as (wire, url), open_database(RemoteServer(url), options) as database:
        wire.break_at("BEGIN", Break.SILENT)
        with pytest.raises(StoreUnavailableError, match="does not answer in time; nothing was changed"):
            async with database.as_system("a test") as connection:
                await connection.execute("SELECT 1")
        assert wire.broken == 1


async def test_a_connection_lost_before_the_commit_has_changed_nothing(own_database: DatabaseUrls) -> None:
    owner = await asyncpg.connect(own_database.owner)
    await _create_table(owner)
    async with open_wire(own_database.app) as (wire, url), open_database(RemoteServer(url), PoolOptions()) as database:
        for how in (Break.BEFORE, Break.AFTER):
            wire.break_at("kept_by_a_test", how)
            with pytest.raises(StoreUnavailableError, match="nothing was changed") as lost:
                async with database.as_system("a test") as connection:
                    await connection.execute(KEPT)
            assert not isinstance(lost.value, StoreUnclearError)
        await owner.execute("BEGIN; LOCK TABLE agentapi.kept_by_a_test; COMMIT")
        assert await owner.fetchval("SELECT count(*) FROM agentapi.kept_by_a_test") == 0
    await owner.close()


async def test_on_a_connection_that_is_closed_no_commit_is_sent(database: Database) -> None:
    with pytest.raises(StoreUnavailableError, match="nothing was changed") as lost:
        await _lose_before_the_commit(database)
    assert not isinstance(lost.value, StoreUnclearError)


async def _lose_before_the_commit(database: Database) -> None:
    async with database.as_system("a test") as connection:
        while True:
            try:
                await connection.execute("RESET ROLE; SELECT pg_terminate_backend(pg_backend_pid())")
            except asyncpg.InterfaceError:  # closed, and known to be
                break
            except (asyncpg.PostgresError, OSError):
                continue


async def test_a_reader_whose_connection_is_lost_at_the_end_has_changed_nothing(own_database: DatabaseUrls) -> None:
    async with open_wire(own_database.app) as (wire, url), open_database(RemoteServer(url), PoolOptions()) as database:
        wire.break_at("COMMIT", Break.AFTER)
        with pytest.raises(StoreUnavailableError, match="nothing was changed"):
            async with database.as_principal(ANN) as connection:
                await connection.fetchval("SELECT 1")


async def _create_table(owner: "asyncpg.Connection[asyncpg.Record]") -> None:
    await owner.execute("CREATE TABLE agentapi.kept_by_a_test (number int)")
    await owner.execute("GRANT SELECT, INSERT ON agentapi.kept_by_a_test TO agentapi_system")
