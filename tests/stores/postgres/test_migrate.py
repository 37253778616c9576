"""Migrations: applied once, refused where they do not fit, on the embedded Postgres 18 and on one of yours."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from agentapi_mcp.base.errors import StoreMismatchError, StoreUnavailableError
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate, preview, status
from agentapi_mcp.stores.postgres.schema_files import migrations
from agentapi_mcp.stores.postgres.schema_state import is_current
from tests.conftest import DatabaseUrls
from tests.support.supabase import Project


async def test_what_is_applied_is_not_applied_again(database_urls: DatabaseUrls) -> None:
    assert await migrate(database_urls.owner, program="0.1.0") == ()
    plan = await preview(database_urls.owner, program="0.1.0")
    assert (plan.migrations, plan.changes, plan.carries_over) == ((), (), False)
    states = await status(database_urls.owner)
    assert [state.id for state in states] == [migration.id for migration in migrations()]
    assert all(state.applied_at is not None for state in states)


async def test_the_program_sees_that_the_schema_is_its_own(database: Database) -> None:
    assert await is_current(database, program="0.1.0")


@pytest.mark.parametrize("made", [0, 1])
async def test_of_migrations_at_once_one_does_the_work(made: int, project: Project) -> None:
    missing = tuple(migration.id for migration in migrations()[made:])
    if made:
        await migrate(project.owner, program="0.1.0", files=migrations()[:made])
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(migrate(project.owner, program="0.1.0")) for _ in range(3)]
    assert Counter(task.result() for task in running) == {missing: 1, (): 2}


async def test_a_migration_waits_for_another_and_keeps_no_program_waiting(
    database: Database, database_urls: DatabaseUrls
) -> None:
    owner, observer = await asyncpg.connect(database_urls.owner), await asyncpg.connect(database_urls.owner)
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE $1 = ANY(pg_blocking_pids(pid)))"
    try:
        async with asyncio.TaskGroup() as group, owner.transaction():
            await owner.execute("LOCK TABLE agentapi.migrations IN SHARE ROW EXCLUSIVE MODE")
            # Longer than for a table of others.
            waiting = migrate(database_urls.owner, program="0.1.0", lock_timeout=timedelta(milliseconds=1))
            second = group.create_task(waiting)
            while not await observer.fetchval(waits, owner.get_server_pid()):
                pass
            assert await is_current(database, program="0.1.0")
            assert not second.done()
        assert second.result() == ()
    finally:
        await owner.close()
        await observer.close()


async def test_an_edited_migration_and_a_newer_program_are_refused(own_database: DatabaseUrls) -> None:
    owner = await asyncpg.connect(own_database.owner)
    try:
        await owner.execute("UPDATE agentapi.migrations SET sha256 = 'x' || sha256 WHERE id = '0001_schema'")
        with pytest.raises(StoreMismatchError, match="0001_schema"):
            await migrate(own_database.owner, program="0.1.0")
        await owner.execute("UPDATE agentapi.migrations SET sha256 = substr(sha256, 2) WHERE id = '0001_schema'")
        await owner.execute("INSERT INTO agentapi.migrations (id, sha256, needs) VALUES ('9999_future', 'x', '9.0.0')")
        with pytest.raises(StoreMismatchError, match="Upgrade"):
            await migrate(own_database.owner, program="0.1.0")
    finally:
        await owner.close()


async def test_what_a_development_version_made_is_refused_by_name(own_database: DatabaseUrls) -> None:
    owner = await asyncpg.connect(own_database.owner)
    try:
        await owner.execute("UPDATE agentapi.migrations SET id = '0001_other' WHERE id = '0001_schema'")
        with pytest.raises(StoreMismatchError, match="0001_other"):
            await migrate(own_database.owner, program="0.1.0")
        async with open_database(RemoteServer(own_database.app), PoolOptions()) as database:
            with pytest.raises(StoreMismatchError, match="AGENTAPI_HOME"):
                await is_current(database, program="0.1.0")
    finally:
        await owner.close()


async def test_a_login_without_rights_is_told_which(database_urls: DatabaseUrls) -> None:
    if database_urls.app == database_urls.owner:
        pytest.skip("needs two logins: TEST_DATABASE_URL gives one")
    with pytest.raises(StoreMismatchError):
        await migrate(database_urls.app, program="0.1.0")


async def test_rows_of_another_user_are_not_seen_nor_written(database: Database, database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    users = [uuid4(), uuid4()]
    async with database.as_system("two users for a test") as connection:
        for user in users:
            await connection.execute("INSERT INTO public.profiles (id) VALUES ($1)", user)
            await connection.execute("INSERT INTO public.chat_sessions (user_id) VALUES ($1)", user)
    try:
        async with owner.transaction():
            await owner.execute("SET LOCAL role authenticated")
            await owner.execute(
                "SELECT set_config('request.jwt.claims', json_build_object('sub', $1::text)::text, true)", str(users[0])
            )
            assert await owner.fetchval("SELECT count(*) FROM public.chat_sessions") == 1
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute("INSERT INTO public.chat_sessions (user_id) VALUES ($1)", users[1])
    finally:
        async with database.as_system("clean up after a test") as connection:
            await connection.execute("DELETE FROM public.profiles WHERE id = ANY($1::uuid[])", users)
        await owner.close()


async def test_a_database_that_is_not_there_is_said() -> None:
    with pytest.raises(StoreUnavailableError):
        await migrate("postgresql://nobody@127.0.0.1:9/none", program="0.1.0")


async def test_the_server_is_15_or_newer(database_urls: DatabaseUrls, postgres_bin: Path | None) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        version = owner.get_server_version().major
    finally:
        await owner.close()
    assert version >= 15
    assert postgres_bin is None or str(version) in postgres_bin.parts  # as in /usr/lib/postgresql/15/bin
