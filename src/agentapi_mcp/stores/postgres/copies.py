"""All rows of the program's tables: read in one snapshot, and loaded into a schema that is made for them."""

import asyncio
import base64
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import LiteralString, TypeAlias

import asyncpg

from agentapi_mcp.base.errors import StoreBusyError, StoreMismatchError
from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.base.text import listed, number_of
from agentapi_mcp.core.accounts.models import account_place
from agentapi_mcp.core.conversations.models import SettlingRule
from agentapi_mcp.core.keys.models import key_place
from agentapi_mcp.stores.postgres.database import APPLICATION, Connection
from agentapi_mcp.stores.postgres.legacy_schema import SHARED
from agentapi_mcp.stores.postgres.migrate import Plan, begin_migration, run_within
from agentapi_mcp.stores.postgres.orphans import find_orphans, settle
from agentapi_mcp.stores.postgres.owner_connections import owner_connection
from agentapi_mcp.stores.postgres.schema_state import is_legacy, refuse_newer, refuse_other

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
# The tables that no copy has, each with the reason; every other one of the program's is copied.
LEFT_OUT: Mapping[str, str] = {
    "agentapi.catalogue_files": "the next start writes the agents of its own file, whatever was written before",
    "agentapi.facts": "it is about one database: which of its tables the migrations made, and its channel",
    "agentapi.jobs": "when this database was last looked after",
    "agentapi.key_requests": "links that are valid for minutes",
    "agentapi.migrations": "the copy names them, and loading it applies them",
    "agentapi.replicas": "the servers that run now",
    "agentapi.share_locks": "it has locks and no content",
    "agentapi.signals": "what running processes tell each other",
}
# What the first start of a program writes before anybody has done anything.
_WRITTEN_BY_STARTS = frozenset(
    {
        *("public.profiles", "public.organizations", "public.organization_members", "agentapi.local_identity"),
        *("public.agents", "public.models", "public.agent_health", "public.mcp_sessions", "agentapi.audit_events"),
    }
)
_PIECES = 16  # of what is read, that wait to be written
# Longer than anybody waits; the command can be interrupted.
_PATIENCE = 7 * 24 * 3600.0
_SHORT_WAIT = "SET LOCAL lock_timeout = '10s'"
_COPY_SETTINGS = """
SET LOCAL search_path = pg_catalog;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL row_security = off;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL bytea_output = 'hex';
SET LOCAL extra_float_digits = 3;
"""
_TABLES: LiteralString = """
SELECT format('%s.%s', n.nspname, c.relname) AS name, n.nspname::text AS schema, c.relname::text AS relation,
       format('%I.%I', n.nspname, c.relname) AS address,
       array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       format('SELECT %s FROM %I.%I', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
              n.nspname, c.relname) AS query
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND (n.nspname = 'agentapi' OR n.nspname = 'public' AND c.relname = ANY($1::text[]))
 GROUP BY n.nspname, c.relname
 ORDER BY 1
"""
_REFERENCES: LiteralString = """
SELECT DISTINCT format('%s.%s', n.nspname, c.relname) AS name, format('%s.%s', o.nspname, r.relname) AS other
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace o ON o.oid = r.relnamespace
 WHERE k.contype = 'f' AND k.conrelid <> k.confrelid
"""
_NOT_OURS: LiteralString = """
SELECT w AS name FROM unnest($1::text[]) AS w
 WHERE to_regclass('public.' || w) IS NOT NULL
   AND NOT EXISTS (SELECT FROM agentapi.facts f WHERE f.name = w AND f.value = 'ours')
 ORDER BY w
"""
# The migrations fill them; what an operator has added has a time.
_WORDS = frozenset({"agentapi.providers", "agentapi.terms"})
_NO_WORDS: LiteralString = "WITH providers AS (DELETE FROM agentapi.providers) DELETE FROM agentapi.terms"
_ADDED_WORDS: LiteralString = (
    "SELECT (SELECT count(*) FROM agentapi.providers WHERE added_at IS NOT NULL) "
    "+ (SELECT count(*) FROM agentapi.terms WHERE added_at IS NOT NULL)"
)
# A start writes the sessions of clients into the same table.
_ACCOUNTS: LiteralString = "SELECT count(*) FROM public.mcp_sessions WHERE session_id LIKE 'oauth/%'"
# The program itself, whoever it is; and who may do what it does, since a pooler may have taken its name away. Without
# superusers, who are members of every role and look after a server; and of the owner of the tables, who is a member as
# the one that made the roles, only what might be the program behind a pooler.
_USERS: LiteralString = """
SELECT r.rolname::text AS login, a.application_name AS program, count(*) AS number
  FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
   AND (a.application_name LIKE $1 || '%'
     OR NOT r.rolsuper
    AND EXISTS (SELECT FROM pg_roles s WHERE s.rolname = 'agentapi_system' AND pg_has_role(r.oid, s.oid, 'MEMBER'))
    AND (a.application_name = '' OR a.application_name ILIKE 'supavisor%' OR a.application_name ILIKE 'pgbouncer%'
      OR r.oid <> coalesce((SELECT relowner FROM pg_class WHERE oid = to_regclass('agentapi.migrations')),
                           (SELECT oid FROM pg_roles WHERE rolname = current_user))))
 GROUP BY 1, 2 ORDER BY 1, 2
"""
# The trigger function and the table of roles stay where others may use them. Views go first, since what others made of
# them keeps them; then `agentapi`, with its policies.
_REMOVE = """
DO $$
DECLARE
    views text := (SELECT string_agg(format('public.%I', c.relname), ', ') FROM agentapi.facts f
                     JOIN pg_class c ON c.relname = f.name AND c.relnamespace = 'public'::regnamespace
                    WHERE f.value = 'ours' AND c.relkind = 'v');
    tables text := (SELECT string_agg(format('public.%I', c.relname), ', ') FROM agentapi.facts f
                      JOIN pg_class c ON c.relname = f.name AND c.relnamespace = 'public'::regnamespace
                     WHERE f.value = 'ours' AND c.relkind IN ('r', 'p'));
    functions text := (SELECT string_agg(p.oid::regprocedure::text, ', ') FROM agentapi.facts f
                         JOIN pg_proc p ON p.proname = f.name AND p.pronamespace = 'public'::regnamespace
                        WHERE f.value = 'ours');
BEGIN
    IF views IS NOT NULL THEN
        EXECUTE 'DROP VIEW ' || views;
    END IF;
    IF functions IS NOT NULL THEN
        EXECUTE 'DROP FUNCTION ' || functions;
    END IF;
    DROP SCHEMA agentapi CASCADE;
    IF tables IS NOT NULL THEN
        EXECUTE 'DROP TABLE ' || tables;
    END IF;
END
$$
"""
# A trigger would refuse turns above a limit that was set later, or write rows that are copied.
_TRIGGERS = """
DO $$
DECLARE
    t regclass;
BEGIN
    FOR t IN SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'r' AND NOT c.relispartition AND n.nspname IN ('public', 'agentapi')
                AND EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal
                               AND (n.nspname = 'agentapi' OR pg_has_role(c.relowner, 'USAGE'))) LOOP
        EXECUTE format('ALTER TABLE %s %s TRIGGER USER', t, current_setting('agentapi.triggers'));
    END LOOP;
END
$$
"""
# Events and entries are loaded into the default partitions: each month gets its own, as far as the function makes them.
_PARTITIONS: LiteralString = """
SELECT agentapi.keep_partitions(m.month) FROM (
    SELECT date_trunc('month', r.at) AS month FROM (
        SELECT at FROM agentapi.audit_events_default UNION ALL SELECT at FROM agentapi.ledger_default) AS r
     WHERE r.at BETWEEN now() - interval '23 months' AND now() + interval '23 months' GROUP BY 1) AS m
"""
_KEYS: LiteralString = """
SELECT 'key' AS kind, k.name, k.provider, k.key_id, k.user_id, p.email::text AS email, p.full_name::text AS full_name,
       o.name::text AS organization, k.org_id, k.id, k.model, encode(k.sealed_key, 'base64') AS sealed
  FROM agentapi.user_api_keys k
  LEFT JOIN public.profiles p ON p.id = k.user_id
  LEFT JOIN public.organizations o ON o.id = k.org_id
 UNION ALL
SELECT 'account', a.key, a.key, a.value ->> 'key_id', s.user_id, p.email::text, p.full_name::text, NULL, NULL,
       NULL, NULL, a.value ->> 'sealed'
  FROM public.mcp_sessions s
 CROSS JOIN LATERAL jsonb_each(CASE jsonb_typeof(s.oauth_data) WHEN 'object' THEN s.oauth_data ELSE '{}' END) AS a
  LEFT JOIN public.profiles p ON p.id = s.user_id
 WHERE s.session_id LIKE 'oauth/%' AND jsonb_typeof(a.value) = 'object' AND a.value ? 'sealed'
 ORDER BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the program's, with those of its columns that are stored; `address` is its name in a statement."""

    name: str
    schema: str
    relation: str
    address: str
    columns: tuple[str, ...]
    query: str


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A key or an account that is sealed in the database, and what it is bound to (`base.sealing`)."""

    kind: str
    name: str
    provider: str
    key_id: str
    whose: str
    sealed: bytes = field(repr=False)
    place: tuple[str, ...]


class Snapshot:
    """One state of all tables, whatever is written meanwhile."""

    def __init__(self, connection: _Connection, tables: tuple[Table, ...], migrations: tuple[str, ...]) -> None:
        self._connection = connection
        self.tables = tables
        self.migrations = migrations

    async def count(self, table: Table) -> int:
        """Return how many rows a table has."""
        return int(await self._connection.fetchval(f"SELECT count(*) FROM ({table.query}) AS t") or 0)  # noqa: S608  # quoted by the server

    async def copy(self, table: Table, write: Callable[[bytes], Coroutine[None, None, None]]) -> None:
        """Hand over the rows in the text format of COPY, a line for each."""
        await self._connection.copy_from_query(table.query, output=write, timeout=_PATIENCE, encoding="utf8")

    @asynccontextmanager
    async def reader(self) -> AsyncGenerator[Callable[[str], AsyncGenerator[bytes]]]:
        """Yield what reads the rows of a table as they are asked for, one table after the other."""
        tables = {table.name: table for table in self.tables}
        try:
            async with asyncio.TaskGroup() as group:

                async def rows(name: str) -> AsyncGenerator[bytes]:
                    pieces = asyncio.Queue[bytes | None](_PIECES)
                    reading = group.create_task(self._read(tables[name], pieces))
                    try:
                        while (piece := await pieces.get()) is not None:
                            yield piece
                    finally:
                        reading.cancel()

                yield rows
        except BaseExceptionGroup as failed:
            raise innermost(failed) from failed

    async def refuse_users(self) -> None:
        """Check that the program does not work with the database.

        Raises:
            StoreBusyError: it does.
        """
        await _refuse_users(self._connection)

    async def secrets(self) -> tuple[SealedSecret, ...]:
        """List what is sealed."""
        return await _secrets(self._connection)

    async def _read(self, table: Table, pieces: asyncio.Queue[bytes | None]) -> None:
        await self.copy(table, pieces.put)
        await pieces.put(None)


@dataclass(frozen=True, slots=True)
class Copied:
    """A table of a copy."""

    name: str
    columns: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Copy:
    """All that is to be loaded: `migrations` is how many of the shipped ones it was made under.

    `rows` gives the lines of a table, in pieces of any size; `check` may refuse all of it at the end.
    """

    tables: Sequence[Copied]
    migrations: int
    rows: Callable[[str], AsyncIterator[bytes]]
    check: Callable[[], Awaitable[None]] | None = None


@asynccontextmanager
async def open_snapshot(
    url: str, variable: str | None, program: str, *, is_held: bool = False
) -> AsyncGenerator[Snapshot | None]:
    """Open a snapshot as the owner of the tables; None where the program has none here.

    Where it `is_held`, the program does not work with the database, and who comes meanwhile waits before it writes.

    Raises:
        StoreBusyError: the program works with it, though it is to be held.
        StoreMismatchError: a newer program made them, or the login may not read all of their rows.
    """
    async with owner_connection(url, variable) as connection:
        with _all_rows():
            held = await copied_tables(connection) if is_held and await _has_program(connection) else ()
            # It ends with the connection: after a load that failed, a COPY may still be on its way.
            await connection.transaction(isolation="repeatable_read", readonly=True).start()
            await connection.execute(_COPY_SETTINGS)
            if held:
                # Before the first query, which decides on what the snapshot has.
                names = ", ".join(table.address for table in held)
                await connection.execute(f"{_SHORT_WAIT}; LOCK TABLE {names} IN SHARE MODE")
                await _refuse_users(connection)
            if not await _has_program(connection):
                yield None
                return
            rows = await connection.fetch("SELECT id, needs FROM agentapi.migrations ORDER BY id")
            ids = tuple(str(row["id"]) for row in rows)
            refuse_newer([row["needs"] for row in rows], program)
            if is_legacy(ids):
                raise StoreMismatchError(
                    "This database is from before the first release: `agentapi-mcp migrate` first."
                )
            refuse_other(ids)
            yield Snapshot(connection, await copied_tables(connection), ids)


async def copied_tables(connection: _Connection) -> tuple[Table, ...]:
    """List the program's tables that are copied."""
    rows = await connection.fetch(_TABLES, list(SHARED))
    tables = [Table(r["name"], r["schema"], r["relation"], r["address"], tuple(r["columns"]), r["query"]) for r in rows]
    return tuple(table for table in tables if table.name not in LEFT_OUT)


async def load(
    url: str, variable: str | None, copy: Copy, plan: Plan, on_rows: Callable[[str, int], None]
) -> tuple[SealedSecret, ...]:
    """Make the schema anew, load a copy, and bring it to this version, in one transaction; return what is sealed in it.

    Whether the place may be emptied was asked before (`find_contents`). Rows of before are gone, and so are rights that
    others were given on the tables. Turns that ran are interrupted.

    Raises:
        StoreBusyError: another program uses the database.
        StoreMismatchError: the copy or the database does not fit; nothing was changed.
    """
    async with owner_connection(url, variable) as connection, connection.transaction():
        await begin_migration(connection)
        await _refuse_users(connection)
        if await _has_program(connection):
            await _remove(connection)
        await run_within(connection, replace(plan, files=plan.files[: copy.migrations]))
        await connection.execute(_COPY_SETTINGS)
        await _switch_triggers(connection, "DISABLE")
        await _load_tables(connection, copy, on_rows)
        await _switch_triggers(connection, "ENABLE")
        await run_within(connection, plan)
        await connection.fetch(_PARTITIONS)
        await _settle(connection)
        secrets = await _secrets(connection)
        # One that began meanwhile read what was there before.
        await _refuse_users(connection)
        if copy.check is not None:
            await copy.check()
        return secrets


async def refuse_users(url: str, variable: str | None) -> None:
    """Check that the program does not work with a database.

    Raises:
        StoreBusyError: it does.
    """
    async with owner_connection(url, variable) as connection:
        await _refuse_users(connection)


async def remove(url: str, variable: str | None) -> None:
    """Drop the schema of the program, and the tables of `public` that its migrations made, with all rows.

    Raises:
        StoreBusyError: another program uses the database.
        StoreMismatchError: another application has tables there, or something else depends on ours.
    """
    async with owner_connection(url, variable) as connection, connection.transaction():
        await begin_migration(connection)
        await _refuse_users(connection)
        if await _has_program(connection):
            await _remove(connection)


async def find_contents(url: str, variable: str | None) -> Mapping[str, int]:
    """Count the rows of each table that has any beyond what a first start writes; nothing where the place is empty.

    Raises:
        StoreBusyError: another program uses the database.
        StoreMismatchError: the database belongs to another application, or the login may not read all rows.
    """
    async with owner_connection(url, variable) as connection, connection.transaction(readonly=True):
        with _all_rows():
            await connection.execute(_COPY_SETTINGS)
            await _refuse_users(connection)
            if not await _has_program(connection):
                return {}
            await _refuse_others(connection)
            counts = {
                table.name: int(await connection.fetchval(f"SELECT count(*) FROM ({table.query}) AS t") or 0)  # noqa: S608  # quoted by the server
                for table in await copied_tables(connection)
            }
            accounts = int(await connection.fetchval(_ACCOUNTS) or 0)
            added = int(await connection.fetchval(_ADDED_WORDS) or 0) if counts.keys() >= _WORDS else 0
    if (
        not accounts
        and not added
        and all(not rows or name in _WRITTEN_BY_STARTS | _WORDS for name, rows in counts.items())
        and counts["public.profiles"] <= 1
    ):
        return {}
    return {name: rows for name, rows in counts.items() if rows}


async def _has_program(connection: _Connection) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass('agentapi.migrations') IS NOT NULL"))


async def _refuse_users(connection: _Connection) -> None:
    await connection.fetchval("SELECT pg_stat_clear_snapshot()")  # else a transaction sees who was there at first
    users = await connection.fetch(_USERS, APPLICATION)
    if users:
        number = sum(row["number"] for row in users)
        logins = listed(sorted({_login(row) for row in users}))
        raise StoreBusyError(
            f"The program works with this database ({number_of(number, 'connection')}, as {logins}): end "
            "`serve`, quit the clients and run `agentapi-mcp stop`, then try again. Nothing was changed."
        )


def _login(row: asyncpg.Record) -> str:
    program = str(row["program"])
    return str(row["login"]) if not program or program.startswith(APPLICATION) else f"{row['login']} by {program}"


async def _refuse_others(connection: _Connection) -> None:
    others = [row["name"] for row in await connection.fetch(_NOT_OURS, list(SHARED))]
    if others:
        raise StoreMismatchError(
            f"Another application made {listed([f'public.{name}' for name in others])} in this database: it is "
            "restored, emptied and removed by its own means, and docs/supabase.md says how to take "
            "out what is ours."
        )


async def _remove(connection: _Connection) -> None:
    await _refuse_others(connection)
    try:
        await connection.execute(_REMOVE)
    except asyncpg.DependentObjectsStillExistError as exc:
        raise StoreMismatchError(
            f"Something of another application's depends on the tables ({exc.detail or exc}): remove that first. "
            "Nothing was changed."
        ) from exc


async def _settle(connection: _Connection) -> None:
    """End the turns that ran when the copy was made: nobody runs them here, and their sessions would wait for them."""
    rows = await connection.fetch("SELECT DISTINCT lease_owner FROM agentapi.turns WHERE lease_owner IS NOT NULL")
    rule = SettlingRule(own=frozenset(), dead=frozenset(row["lease_owner"] for row in rows))
    within = Connection(connection)
    while sessions := await find_orphans(within, rule):
        await settle(within, rule, sessions)


async def _switch_triggers(connection: _Connection, how: str) -> None:
    await connection.execute("SELECT set_config('agentapi.triggers', $1, true)", how)
    await connection.execute(_TRIGGERS)


async def _load_tables(connection: _Connection, copy: Copy, on_rows: Callable[[str, int], None]) -> None:
    tables = {table.name: table for table in await copied_tables(connection)}
    copied = {table.name: table for table in copy.tables}
    strangers = sorted(copied.keys() - tables.keys())
    if strangers:
        raise StoreMismatchError(f"The backup has tables that this program does not know: {listed(strangers)}.")
    if copied.keys() >= _WORDS:
        await connection.execute(_NO_WORDS)
    for name in await _order(connection, copied):
        await _load_table(connection, tables[name], copied[name], _counted(copied[name], copy, on_rows))


async def _counted(copied: Copied, copy: Copy, on_rows: Callable[[str, int], None]) -> AsyncGenerator[bytes]:
    """Hand on the rows of a table, and say how many they are; more than it has are refused at once."""
    count = 0
    async for piece in copy.rows(copied.name):
        rows = piece.count(b"\n")  # in the text format, a line end in a value is escaped
        count += rows
        if count > copied.rows:
            raise _other_rows(copied.name)
        yield piece
        on_rows(copied.name, rows)


def _other_rows(name: str) -> StoreMismatchError:
    return StoreMismatchError(f"The backup does not have the rows of {name} that it names.")


async def _load_table(connection: _Connection, table: Table, copied: Copied, source: AsyncGenerator[bytes]) -> None:
    strangers = sorted(set(copied.columns) - set(table.columns))
    if strangers:
        raise StoreMismatchError(
            f"The backup has columns that the table {table.name} of this program has not: {listed(strangers)}. It was "
            "made of a database where another application has that table."
        )
    done = await connection.copy_to_table(
        table.relation,
        schema_name=table.schema,
        columns=copied.columns,
        source=source,
        timeout=_PATIENCE,
        encoding="utf8",
    )
    if done != f"COPY {copied.rows}":
        raise _other_rows(table.name)


async def _order(connection: _Connection, copied: Mapping[str, Copied]) -> Iterator[str]:
    """Order tables so that each comes after those that it refers to."""
    sorter = TopologicalSorter[str](dict.fromkeys(copied, ()))
    for row in await connection.fetch(_REFERENCES):
        if row["name"] in copied and row["other"] in copied:
            sorter.add(row["name"], row["other"])
    return iter(tuple(sorter.static_order()))


async def _secrets(connection: _Connection) -> tuple[SealedSecret, ...]:
    return tuple(
        SealedSecret(r["kind"], r["name"], r["provider"], r["key_id"] or "", _whose(r), _sealed(r), _place(r))
        for r in await connection.fetch(_KEYS)
    )


def _sealed(row: asyncpg.Record) -> bytes:
    try:
        return base64.b64decode(row["sealed"] or "")
    except ValueError:  # not written by this program: nothing opens it
        return b""


def _place(row: asyncpg.Record) -> tuple[str, ...]:
    if row["kind"] == "account":
        return account_place(row["user_id"], row["provider"])
    return key_place(row["org_id"], row["user_id"], row["id"], row["provider"], row["model"])


def _whose(row: asyncpg.Record) -> str:
    if row["user_id"] is None:
        return f"the organization {row['organization']}"
    return str(row["email"] or row["full_name"] or row["user_id"])


@contextmanager
def _all_rows() -> Generator[None]:
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as exc:
        raise StoreMismatchError(
            "This login may not read every row of the program's tables: set AGENTAPI_MIGRATE_DATABASE_URL to the login "
            "that owns them."
        ) from exc
