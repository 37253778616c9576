"""All rows, as one snapshot, and back into a schema that is made for them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.errors import StoreBusyError, StoreMismatchError, StoreUnavailableError
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.copies import (
    LEFT_OUT,
    Copied,
    Copy,
    copied_tables,
    find_contents,
    load,
    open_snapshot,
    refuse_users,
    remove,
)
from agentapi_mcp.stores.postgres.database import APPLICATION
from agentapi_mcp.stores.postgres.migrate import Plan, migrate
from agentapi_mcp.stores.postgres.schema_files import migrations
from tests.conftest import DatabaseUrls
from tests.support.databases import Template, created
from tests.support.filled import OTHER, USER, fill

PLAN = Plan(VERSION)
SESSION = """
INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at)
VALUES ($1, $2, '{}', '{}', NULL)
"""
TABLES = """
SELECT format('%s.%s', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname IN ('public', 'agentapi') AND c.relkind IN ('r', 'p', 'f', 'm') AND NOT c.relispartition
"""

FUNCTIONS = """
SELECT p.proname::text AS name FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
"""


ANOTHER_TURN = """
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_name, backend, fingerprint, status,
                            ended_at)
SELECT gen_random_uuid(), session_id, user_id, org_id, user_message_id, agent_name, backend, fingerprint, 'completed',
       now()
  FROM agentapi.turns WHERE id = $1
"""


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def copy_of(url: str, *, number: int | None = None, with_rows: bool = True) -> tuple[Copy, dict[str, bytes]]:
    """Return a copy of a database in memory, and the lines of each table."""
    texts = dict[str, bytes]()
    async with open_snapshot(url, None, VERSION) as snapshot:
        assert snapshot is not None
        entries = list[Copied]()
        for table in snapshot.tables:
            parts = list[bytes]()

            async def write(chunk: bytes, parts: list[bytes] = parts) -> None:
                parts.append(chunk)

            if with_rows:
                await snapshot.copy(table, write)
            texts[table.name] = b"".join(parts)
            entries.append(Copied(table.name, table.columns, await snapshot.count(table)))
    return Copy(entries, number or len(migrations()), partial(pieces, dict(texts))), texts


async def pieces(texts: dict[str, bytes], name: str, *, size: int = 70) -> AsyncGenerator[bytes]:
    """Yield the lines of a table in pieces that end anywhere."""
    for start in range(0, len(texts[name]), size):
        yield texts[name][start : start + size]


def lines(texts: dict[str, bytes]) -> dict[str, list[bytes]]:
    """Return the rows of each table, in an order that does not depend on how they are stored."""
    return {name: sorted(line for line in text.splitlines() if is_kept(name, line)) for name, text in texts.items()}


def is_kept(table: str, line: bytes) -> bool:
    """Tell whether a row comes back as it was: all but the turn that ran, and what is recorded of its end."""
    if table == "agentapi.usage_daily_of_persons":  # whose sums tell no agents apart: those of the other person
        return OTHER.encode() in line
    return not line.startswith(OTHER.encode()) and b"turn_ended" not in line and b"\tran on\t" not in line


def ignored(_table: str, _rows: int) -> None:
    """Tell nobody how far it is."""


@pytest.fixture
async def another(template: Template) -> AsyncGenerator[DatabaseUrls]:
    """Return a second migrated database for one test alone."""
    async with template.copied() as urls:
        yield urls


async def test_every_table_is_copied_or_left_out_with_a_reason(database_urls: DatabaseUrls) -> None:
    async with connected(database_urls.owner) as connection:
        there = {row["name"] for row in await connection.fetch(TABLES)}
        copied = {table.name for table in await copied_tables(connection)}
    assert there == copied | LEFT_OUT.keys(), (
        "name a new table in copies.LEFT_OUT, if no backup needs it, with the reason"
    )
    assert not copied & LEFT_OUT.keys()
    assert all(len(reason) > 20 for reason in LEFT_OUT.values())


async def test_the_tests_fill_every_table_that_is_copied(own_database: DatabaseUrls) -> None:
    await fill(own_database.owner)
    _, texts = await copy_of(own_database.owner)
    assert [name for name, text in texts.items() if not text] == []


async def test_all_that_is_copied_comes_back_as_it_was(own_database: DatabaseUrls, another: DatabaseUrls) -> None:
    await fill(own_database.owner)
    copy, texts = await copy_of(own_database.owner)
    told = list[tuple[str, int]]()
    secrets = await load(another.owner, None, copy, PLAN, lambda table, rows: told.append((table, rows)))
    _, loaded = await copy_of(another.owner)
    assert lines(loaded) == lines(texts)
    assert b"\trunning\t" in texts["agentapi.turns"]
    assert b"\trunning\t" not in loaded["agentapi.turns"]
    assert loaded["agentapi.turns"].count(b"\tinterrupted\t") == 1
    assert {name: sum(rows for each, rows in told if each == name) for name, _ in told} == {
        table.name: table.rows for table in copy.tables if table.rows
    }
    assert len(told) > len(copy.tables)  # not only at the end of each table
    assert {(s.kind, s.name, s.key_id, s.whose) for s in secrets} == {
        ("key", "mine", "new", "ann@example.com"),
        ("key", "ours", "old", "the organization Ours"),
        ("account", "calendar", "old", "ann@example.com"),
    }


async def test_a_database_that_never_had_the_program_is_filled_too(
    own_database: DatabaseUrls, template: Template
) -> None:
    await fill(own_database.owner)
    copy, texts = await copy_of(own_database.owner)
    async with created(template.admin, "OWNER agentapi_owner") as name:
        url = template.owner.replace(f"/{template.name}?", f"/{name}?")
        await load(url, None, copy, PLAN, ignored)
        _, loaded = await copy_of(url)
    assert lines(loaded) == lines(texts)


async def test_after_a_load_triggers_work_and_events_have_the_partition_of_their_month(
    own_database: DatabaseUrls, another: DatabaseUrls
) -> None:
    await fill(own_database.owner)
    copy, _ = await copy_of(own_database.owner)
    await load(another.owner, None, copy, PLAN, ignored)
    async with connected(another.owner) as connection:
        assert not await connection.fetchval(
            "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'O'"
        )
        with pytest.raises(asyncpg.PostgresError, match="running_turns"):
            await connection.execute(ANOTHER_TURN, UUID(USER))
        left = await connection.fetch("SELECT action FROM agentapi.audit_events_default")
        assert [row["action"] for row in left] == ["long ago"]


async def test_a_snapshot_is_one_state_whatever_is_written_meanwhile(own_database: DatabaseUrls) -> None:
    await fill(own_database.owner)
    async with open_snapshot(own_database.owner, None, VERSION) as snapshot, connected(own_database.owner) as writer:
        assert snapshot is not None
        counts = {table.name: await snapshot.count(table) for table in snapshot.tables}
        await writer.execute(
            "INSERT INTO public.chat_messages (session_id, role, content) "
            "SELECT session_id, role, content FROM public.chat_messages"
        )
        await writer.execute("DELETE FROM agentapi.turns WHERE id = $1", UUID(OTHER))
        assert {table.name: await snapshot.count(table) for table in snapshot.tables} == counts


async def test_a_held_snapshot_keeps_writers_out_and_tells_of_who_came(own_database: DatabaseUrls) -> None:
    await fill(own_database.owner)
    async with connected(own_database.app):
        with pytest.raises(StoreBusyError, match="1 connection"):
            async with open_snapshot(own_database.owner, None, VERSION, is_held=True):
                pass
    async with (
        open_snapshot(own_database.owner, None, VERSION, is_held=True) as snapshot,
        connected(own_database.owner) as writer,
    ):
        assert snapshot is not None
        await writer.execute("SET application_name = 'psql'; SET row_security = off; SET lock_timeout = '50ms'")
        await snapshot.refuse_users()
        assert await writer.fetchval("SELECT count(*) FROM public.chat_messages") == 2
        for table in snapshot.tables:
            with pytest.raises(asyncpg.LockNotAvailableError):
                await writer.execute(f"DELETE FROM {table.address}")  # noqa: S608  # quoted by the server
        await writer.execute(f"SET application_name = '{APPLICATION}tests'")
        with pytest.raises(StoreBusyError, match="1 connection"):
            await snapshot.refuse_users()


async def test_nothing_is_held_where_the_program_never_was(template: Template) -> None:
    async with created(template.admin, "OWNER agentapi_owner") as name:
        url = template.owner.replace(f"/{template.name}?", f"/{name}?")
        async with open_snapshot(url, None, VERSION, is_held=True) as snapshot:
            assert snapshot is None


async def test_rows_go_from_one_database_to_the_other(own_database: DatabaseUrls, another: DatabaseUrls) -> None:
    await fill(own_database.owner)
    copy, texts = await copy_of(own_database.owner)
    async with open_snapshot(own_database.owner, None, VERSION) as snapshot:
        assert snapshot is not None
        async with snapshot.reader() as rows:
            await load(another.owner, None, replace(copy, rows=rows), PLAN, ignored)
    _, loaded = await copy_of(another.owner)
    assert lines(loaded) == lines(texts)


async def test_a_load_that_fails_ends_the_reading_and_one_that_cannot_be_read_the_load(
    own_database: DatabaseUrls, another: DatabaseUrls
) -> None:
    await fill(own_database.owner)
    async with connected(own_database.owner) as connection:
        await connection.execute("SET row_security = off")
        await connection.execute(
            "INSERT INTO public.chat_messages (session_id, role, content) "
            "SELECT session_id, role, repeat('long ', 2000) FROM public.chat_messages, generate_series(1, 2000)"
        )
    copy, _ = await copy_of(own_database.owner, with_rows=False)
    fewer = [replace(table, rows=min(table.rows, 5)) for table in copy.tables]
    async with open_snapshot(own_database.owner, None, VERSION) as snapshot:
        assert snapshot is not None
        with pytest.raises(StoreMismatchError, match="does not have the rows"):
            async with snapshot.reader() as rows:
                await load(another.owner, None, replace(copy, tables=fewer, rows=rows), PLAN, ignored)
    with pytest.raises(StoreUnavailableError):
        await load_while_the_source_ends(own_database.owner, another.owner, copy)
    assert await find_contents(another.owner, None) == {}


async def load_while_the_source_ends(source: str, target: str, copy: Copy) -> None:
    async with open_snapshot(source, None, VERSION) as snapshot:
        assert snapshot is not None
        async with snapshot.reader() as rows, connected(source) as killer:
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = current_user"
            )
            await load(target, None, replace(copy, rows=rows), PLAN, ignored)


async def test_a_check_at_the_end_undoes_a_load(own_database: DatabaseUrls, another: DatabaseUrls) -> None:
    await fill(own_database.owner)
    copy, _ = await copy_of(own_database.owner)

    async def refuse() -> None:
        raise StoreBusyError("somebody came")

    with pytest.raises(StoreBusyError, match="somebody came"):
        await load(another.owner, None, replace(copy, check=refuse), PLAN, ignored)
    assert await find_contents(another.owner, None) == {}


async def test_the_owner_who_looks_into_the_tables_is_no_program(another: DatabaseUrls) -> None:
    for name, is_program in (("psql", False), ("", True), ("Supavisor", True), ("PgBouncer", True)):
        async with connected(another.owner) as connection:
            await connection.execute(f"SET application_name = '{name}'")
            if is_program:
                with pytest.raises(StoreBusyError, match=f"1 connection, as agentapi_owner(?: by {name})?"):
                    await refuse_users(another.owner, None)
            else:
                await refuse_users(another.owner, None)
    async with connected(another.app) as connection:
        await connection.execute("SET application_name = 'psql'")
        with pytest.raises(StoreBusyError, match="1 connection, as agentapi_app by psql"):
            await refuse_users(another.owner, None)


async def test_a_login_that_does_not_see_all_rows_makes_no_backup(own_database: DatabaseUrls) -> None:
    await fill(own_database.owner)
    with pytest.raises(StoreMismatchError, match="AGENTAPI_MIGRATE_DATABASE_URL"):
        await copy_of(own_database.app)


async def test_a_copy_of_an_older_schema_is_loaded_and_migrated(
    own_database: DatabaseUrls, another: DatabaseUrls
) -> None:
    await remove(own_database.owner, None)
    before = migrations()[:8]
    await migrate(own_database.owner, program=VERSION, files=before)
    async with connected(own_database.owner) as connection:
        await connection.execute("INSERT INTO public.organizations (name) VALUES ('Crème & Co.')")
    copy, _ = await copy_of(own_database.owner, number=len(before))
    assert "slug" not in next(table.columns for table in copy.tables if table.name == "public.organizations")
    await load(another.owner, None, copy, PLAN, ignored)
    async with connected(another.owner) as connection:
        assert await connection.fetchval("SELECT slug FROM public.organizations") == "creme-co"
        assert await connection.fetchval("SELECT count(*) FROM agentapi.migrations") == len(migrations())


async def test_a_copy_that_does_not_fit_changes_nothing(own_database: DatabaseUrls, another: DatabaseUrls) -> None:
    await fill(own_database.owner)
    await fill(another.owner)
    _, before = await copy_of(another.owner)
    copy, _ = await copy_of(own_database.owner)
    first = copy.tables[0]
    for tables in (
        [replace(first, rows=first.rows + 1), *copy.tables[1:]],
        [replace(first, columns=("nonsense", *first.columns[1:])), *copy.tables[1:]],
        [replace(first, name="agentapi.nonsense"), *copy.tables[1:]],
    ):
        with pytest.raises(StoreMismatchError, match=r"audit_events|agentapi.nonsense"):
            await load(another.owner, None, replace(copy, tables=tables), PLAN, ignored)
    _, after = await copy_of(another.owner)
    assert after == before


async def test_nothing_is_loaded_or_removed_under_a_program(own_database: DatabaseUrls, another: DatabaseUrls) -> None:
    copy, _ = await copy_of(own_database.owner)
    async with connected(another.app):
        for step in (
            load(another.owner, None, copy, PLAN, ignored),
            remove(another.owner, None),
            find_contents(another.owner, None),
            refuse_users(another.owner, None),
        ):
            with pytest.raises(StoreBusyError, match="1 connection"):
                await step
    await refuse_users(another.owner, None)


async def test_a_program_is_known_also_by_a_superusers_login(another: DatabaseUrls, template: Template) -> None:
    url = urlsplit(template.admin)._replace(path=urlsplit(another.owner).path).geturl()
    async with connected(url):
        await refuse_users(another.owner, None)  # somebody who looks after the server
    async with connected(url) as connection:
        await connection.execute(f"SET application_name = '{APPLICATION}tests'")
        with pytest.raises(StoreBusyError, match="1 connection"):
            await refuse_users(another.owner, None)


async def test_a_program_that_came_meanwhile_undoes_a_load(own_database: DatabaseUrls, another: DatabaseUrls) -> None:
    await fill(own_database.owner)
    copy, _ = await copy_of(own_database.owner)
    came = list["asyncpg.Connection[asyncpg.Record]"]()

    async def read(name: str) -> AsyncGenerator[bytes]:
        if not came:
            came.append(await asyncpg.connect(another.app))
        async for piece in copy.rows(name):
            yield piece

    slow = replace(copy, rows=read)
    with pytest.raises(StoreBusyError):
        await load(another.owner, None, slow, PLAN, ignored)
    await came[0].close()
    assert await find_contents(another.owner, None) == {}


@pytest.mark.parametrize(
    "added",
    [
        "INSERT INTO agentapi.providers (id, name) VALUES ('house', 'House')",
        "INSERT INTO agentapi.terms (kind, id, name) VALUES ('feature', 'house', 'House')",
    ],
)
async def test_a_place_to_whose_words_an_operator_has_added_is_not_empty(
    added: str, own_database: DatabaseUrls
) -> None:
    async with connected(own_database.owner) as connection:
        await connection.execute(added)
    assert set(await find_contents(own_database.owner, None)) >= {"agentapi.providers", "agentapi.terms"}


async def test_a_place_is_empty_that_has_what_a_first_start_writes(own_database: DatabaseUrls) -> None:
    assert await find_contents(own_database.owner, None) == {}
    await fill(own_database.owner)
    contents = await find_contents(own_database.owner, None)
    assert contents["public.chat_messages"] == 2
    async with connected(own_database.owner) as connection:
        await connection.execute("TRUNCATE public.profiles, public.organizations, public.chat_sessions CASCADE")
        await connection.execute("DELETE FROM agentapi.idempotency_keys")
        await connection.execute("DELETE FROM agentapi.providers WHERE added_at IS NOT NULL")
        await connection.execute("DELETE FROM agentapi.terms WHERE added_at IS NOT NULL")
    # What was spent here is left of those who are gone.
    assert (await find_contents(own_database.owner, None))["agentapi.ledger"] == 1
    async with connected(own_database.owner) as connection:
        await connection.execute(
            "TRUNCATE agentapi.ledger, agentapi.usage_daily, agentapi.usage_daily_of_organizations, "
            "agentapi.usage_daily_of_persons, agentapi.usage_agents_of_persons, agentapi.budget_periods, "
            "agentapi.late_reservations"
        )
    assert await find_contents(own_database.owner, None) == {}
    async with connected(own_database.owner) as connection:
        ann = await connection.fetchval("INSERT INTO public.profiles (full_name) VALUES ('Ann') RETURNING id")
        # What clients leave by themselves stands in the same table.
        await connection.execute(SESSION, ann, "client")
    assert await find_contents(own_database.owner, None) == {}
    async with connected(own_database.owner) as connection:
        await connection.execute(SESSION, ann, f"oauth/{ann}")
    assert (await find_contents(own_database.owner, None))["public.mcp_sessions"] == 2
    async with connected(own_database.owner) as connection:
        await connection.execute("DELETE FROM public.profiles")
    async with connected(own_database.owner) as connection:
        await connection.execute("INSERT INTO public.profiles (full_name) VALUES ('Ann'), ('Bo')")
    assert (await find_contents(own_database.owner, None))["public.profiles"] == 2


async def test_tables_of_another_application_are_left_alone(template: Template) -> None:
    async with created(template.admin, "OWNER agentapi_owner") as name:
        url = template.owner.replace(f"/{template.name}?", f"/{name}?")
        async with connected(url) as connection:
            await connection.execute(
                "CREATE TABLE public.profiles (id uuid PRIMARY KEY, email text, workos_id text, "
                "current_organization_id uuid, shoe_size int)"
            )
            await connection.execute("INSERT INTO public.profiles (id, shoe_size) VALUES (gen_random_uuid(), 40)")
        await migrate(url, program=VERSION)
        copy, texts = await copy_of(url)
        assert b"\t40" in texts["public.profiles"]
        for step in (load(url, None, copy, PLAN, ignored), remove(url, None), find_contents(url, None)):
            with pytest.raises(StoreMismatchError, match=r"public\.profiles"):
                await step
        async with connected(url) as connection:
            assert await connection.fetchval("SELECT shoe_size FROM public.profiles") == 40


@pytest.mark.parametrize("name", ["chat_sessions", "ai_interactions"])
async def test_what_others_made_depend_on_the_tables_keeps_them(own_database: DatabaseUrls, name: str) -> None:
    await fill(own_database.owner)
    async with connected(own_database.owner) as connection:
        await connection.execute(f"CREATE VIEW public.theirs AS SELECT id FROM public.{name}")  # noqa: S608  # a name
    with pytest.raises(StoreMismatchError, match="theirs"):
        await remove(own_database.owner, None)
    assert (await find_contents(own_database.owner, None))["public.chat_sessions"] == 1


async def test_after_a_removal_nothing_is_left_and_it_can_be_migrated_again(own_database: DatabaseUrls) -> None:
    await fill(own_database.owner)
    await remove(own_database.owner, None)
    async with connected(own_database.owner) as connection:
        assert await connection.fetch(TABLES) == []
        assert await connection.fetch(FUNCTIONS) == [("update_updated_at_column",)]
    assert await find_contents(own_database.owner, None) == {}
    async with open_snapshot(own_database.owner, None, VERSION) as snapshot:
        assert snapshot is None
    await migrate(own_database.owner, program=VERSION)
    assert await find_contents(own_database.owner, None) == {}
