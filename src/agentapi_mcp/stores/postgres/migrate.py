"""Apply numbered SQL files, forward only, in one transaction under a lock."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import LiteralString, TypeAlias, TypeVar

import asyncpg

from agentapi_mcp.base.errors import StoreMismatchError
from agentapi_mcp.base.text import listed, one_line
from agentapi_mcp.stores.postgres.existing import LACKED, Prepared, is_new, prepare
from agentapi_mcp.stores.postgres.faults import VARIABLE
from agentapi_mcp.stores.postgres.front_ends import SINCE, grant_columns, remember
from agentapi_mcp.stores.postgres.legacy_schema import (
    SHARED,
    adopt_legacy_database,
)
from agentapi_mcp.stores.postgres.owner_connections import owner_connection
from agentapi_mcp.stores.postgres.schema_files import Migration, migrations
from agentapi_mcp.stores.postgres.schema_objects import changes, read_objects
from agentapi_mcp.stores.postgres.schema_state import LEGACY_IDS, refuse_newer, refuse_other
from agentapi_mcp.stores.postgres.seed_names import SEED_NAMES, left_to_others

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)
# Roles are global to the server, the lock only to a database: another database may be creating the same roles.
_RACES = (asyncpg.UniqueViolationError, asyncpg.UndefinedObjectError, asyncpg.InternalServerError)
_ATTEMPTS = 4
# Indexes on big tables need a long timeout. Waiting for a lock has a short one, since a waiting lock request blocks all
# later ones. Unqualified names are those of pg_catalog.
_BOUNDS = """
SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog;
SET LOCAL statement_timeout = '15min';
SET LOCAL idle_in_transaction_session_timeout = 0;
"""
_BOOTSTRAP = """
DO $$
BEGIN
    IF current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'Postgres %s is too old: 15 or newer is needed', current_setting('server_version'));
    END IF;
    IF to_regnamespace('agentapi') IS NULL AND NOT has_database_privilege(current_database(), 'CREATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The login lacks GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user);
    END IF;
    IF to_regnamespace('agentapi') IS NULL THEN
        CREATE SCHEMA IF NOT EXISTS agentapi;
    END IF;
    IF NOT has_schema_privilege('agentapi', 'USAGE') OR NOT has_schema_privilege('agentapi', 'CREATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'The schema agentapi belongs to %s: migrate as that role; or, where it is not this program''s, rename it',
            (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'agentapi'));
    END IF;
    IF EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('agentapi'))
       AND (SELECT array_agg(attname::text || ' ' || format_type(atttypid, NULL) ORDER BY attnum)
              FROM pg_attribute
             WHERE attrelid = to_regclass('agentapi.migrations') AND attnum > 0 AND NOT attisdropped)
           IS DISTINCT FROM ARRAY['id text', 'sha256 text', 'needs text', 'applied_at timestamp with time zone'] THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE =
            'There is a schema agentapi that is not this program''s: rename it (ALTER SCHEMA agentapi RENAME TO ...)';
    END IF;
END
$$;
CREATE TABLE IF NOT EXISTS agentapi.migrations (
    id text PRIMARY KEY,
    sha256 text NOT NULL,
    needs text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""
# Of two migrations the second waits here. No outside role has a right to this table, while an advisory lock can be held
# by any login. Programs that read the table go on. Where it is not there yet, the second fails to make the schema once
# more, and is repeated; where this login has no right to it, the migration is refused later, in words.
_LOCK = """
DO $$
BEGIN
    IF to_regnamespace('agentapi') IS NOT NULL AND has_schema_privilege('agentapi', 'USAGE') THEN
        IF to_regclass('agentapi.migrations') IS NOT NULL AND has_table_privilege('agentapi.migrations', 'UPDATE') THEN
            LOCK TABLE agentapi.migrations IN SHARE ROW EXCLUSIVE MODE;
        END IF;
    END IF;
END
$$
"""
# Without those of extensions, such as PostGIS's.
_TABLES_OF_PUBLIC: LiteralString = """
SELECT c.relname::text AS name FROM pg_class c
 WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY c.relname
"""
_MOST_EXAMPLES = 5
# Only what the login lacks: the owner of a second database may be no administrator of the roles, and granting again
# what is there needs the same right.
_GRANT = """
DO $$
DECLARE
    login CONSTANT text := current_setting('agentapi.login');
    lacked CONSTANT text := current_setting('agentapi.lacked');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login AND rolcanlogin) THEN
        RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
            'There is no login %s here: as an administrator run CREATE ROLE %I LOGIN NOINHERIT PASSWORD ...',
            login, login);
    END IF;
    IF lacked <> '' THEN
        EXECUTE format('GRANT %s TO %I', lacked, login);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION USING ERRCODE = 'AA001', MESSAGE = format(
        'The login %s may not grant these: as an administrator run GRANT %s TO %I', current_user, lacked, login);
END
$$
"""
# To the program's logins, which are the members of agentapi_system, and to no role that outside clients could take:
# these functions take a role by themselves. After each run, for logins that were made members by hand.
_GRANT_FUNCTIONS = """
DO $$
DECLARE
    login name;
    function regprocedure;
BEGIN
    FOR login, function IN
        SELECT m.rolname, p.oid
          FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member, pg_proc p
         WHERE a.roleid = 'agentapi_system'::regrole AND p.pronamespace = 'agentapi'::regnamespace
           AND p.proname ~ '^(turn_defaults|begin_turn|end_turn|estimate_turn|tell|mark_delivered)_[0-9]+$' LOOP
        IF NOT has_schema_privilege(login, 'agentapi', 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA agentapi TO %I', login);
        END IF;
        IF NOT has_function_privilege(login, function, 'EXECUTE') THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', function, login);
        END IF;
    END LOOP;
END
$$
"""


@dataclass(frozen=True, slots=True)
class MigrationState:
    """A migration, with the time it was applied, None if it was not; `note` describes a problem."""

    id: str
    applied_at: datetime | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """The database's record of an applied migration."""

    sha256: str
    needs: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """Parameters of a migration run."""

    program: str
    grant_to: str | None = None
    narrow_columns: bool | None = None
    lock_timeout: timedelta = timedelta(seconds=10)
    files: Sequence[Migration] = field(default_factory=migrations)


@dataclass(frozen=True, slots=True)
class Migrated:
    """The effects of a migration: its files, what was added to existing tables, and what the operator must know."""

    migrations: tuple[str, ...]
    added: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """The effects of a migration: `changes` are sentences on roles, grants and all objects except columns."""

    server: str
    database: str
    login: str
    migrations: tuple[str, ...]
    carries_over: bool
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class OtherTables:
    """Tables of others in `public` of a database, and those that the migrations would create beside them."""

    database: str
    variable: str
    examples: str
    created: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Done:
    migrated: Migrated
    adopted: bool


async def migrate(
    url: str,
    *,
    program: str,
    grant_to: str | None = None,
    lock_timeout: timedelta = timedelta(seconds=10),
    files: Sequence[Migration] | None = None,
    variable: str | None = None,
) -> tuple[str, ...]:
    """Apply all missing migrations in one transaction, as the owner of the tables, and return their ids.

    `grant_to` is the application's login. Waiting for a table lock longer than `lock_timeout` aborts the run. `files`
    are the first of the shipped migrations; without it, all of them. `variable` is where the URL was read from.

    Raises:
        StoreMismatchError: the database does not fit, a newer program migrated it, or grants are missing.
        StoreUnavailableError: it does not answer, or a table stays locked by another session.
    """
    plan = Plan(program, grant_to, lock_timeout=lock_timeout, files=files or migrations())
    return (await run_migration(url, plan, variable=variable)).migrations


async def run_migration(url: str, plan: Plan, *, variable: str | None = None) -> Migrated:
    """Migrate as `migrate` does, and return what the operator must know of it.

    Raises:
        StoreMismatchError: as `migrate`.
        StoreUnavailableError: as `migrate`.
    """
    return await _repeat(url, variable, partial(_migrate, plan=plan))


async def preview(
    url: str, *, program: str, grant_to: str | None = None, files: Sequence[Migration] | None = None
) -> Preview:
    """Run `migrate` with these parameters, roll it back, and return its effects.

    Raises:
        StoreMismatchError: as `migrate`.
        StoreUnavailableError: as `migrate`.
    """
    return await run_preview(url, Plan(program, grant_to, files=files or migrations()))


async def run_preview(url: str, plan: Plan, *, variable: str | None = None) -> Preview:
    """Preview what `run_migration` would do.

    Raises:
        StoreMismatchError: as `migrate`.
        StoreUnavailableError: as `migrate`.
    """
    found = await _repeat(url, variable, partial(_preview, plan=plan))
    return replace(found, variable=variable)


async def _repeat(url: str, variable: str | None, run: Callable[[_Connection], Awaitable[_Result]]) -> _Result:
    async with owner_connection(url, variable) as connection:
        for _ in range(_ATTEMPTS - 1):
            try:
                return await run(connection)
            except _RACES:
                _log.info("migration_raced")
        return await run(connection)


async def begin_migration(connection: _Connection) -> None:
    """Bound what a transaction waits for, and keep other migrations out until it ends."""
    await connection.execute(_BOUNDS)
    await connection.execute(_LOCK)


async def run_within(connection: _Connection, plan: Plan) -> Migrated:
    """Migrate within a transaction that was begun by `begin_migration`."""
    return (await _run(connection, plan)).migrated


async def _migrate(connection: _Connection, plan: Plan) -> Migrated:
    async with connection.transaction():
        await begin_migration(connection)
        # In one transaction, DDL included: a refusal or a crash leaves nothing behind.
        return await run_within(connection, plan)


async def _preview(connection: _Connection, plan: Plan) -> Preview:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await begin_migration(connection)
        before = await read_objects(connection)
        done = await _run(connection, plan)
        after = await read_objects(connection)
        server, database, login = await connection.fetchval(
            "SELECT ARRAY[current_setting('server_version'), current_database(), session_user]"
        )
    finally:
        await transaction.rollback()
    return Preview(
        server=server,
        database=database,
        login=login,
        migrations=done.migrated.migrations,
        carries_over=done.adopted,
        changes=changes(before, after),
        notes=done.migrated.notes,
    )


async def _run(connection: _Connection, plan: Plan) -> _Done:
    prepared = None
    if await is_new(connection):
        prepared = await prepare(connection, plan.files[0], _BOOTSTRAP, plan.grant_to, plan.lock_timeout)
    await connection.execute(_BOOTSTRAP)
    await connection.execute(_LOCK)
    milliseconds = str(round(plan.lock_timeout.total_seconds() * 1000))
    # Only now: the timeout would also end the wait for another process's migration.
    await connection.execute("SELECT set_config('lock_timeout', $1, true)", milliseconds)
    applied = await _applied(connection)
    refuse_newer([row.needs for row in applied.values()], plan.program)
    # Before `refuse_other`, to which a database from before the first release is one with unknown migrations.
    adopted = await adopt_legacy_database(connection, applied.keys(), plan.files[0])
    if adopted:
        applied = await _applied(connection)
    refuse_other(applied.keys())
    ran = tuple([migration.id for migration in plan.files if await _apply(connection, migration, applied)])
    notes = await _grant_columns(connection, plan, prepared, is_first=SINCE in ran)
    if SEED_NAMES in ran:
        notes += await _left_out(connection)
    if plan.grant_to is not None:
        await _grant_roles(connection, plan.grant_to)
    await connection.execute(_GRANT_FUNCTIONS)
    return _Done(Migrated(ran, () if prepared is None else prepared.added, notes), adopted)


async def _left_out(connection: _Connection) -> tuple[str, ...]:
    left = await left_to_others(connection)
    return (
        (f"other programs have {listed(left)}, so nothing of this program was made under these names",) if left else ()
    )


async def _grant_roles(connection: _Connection, login: str) -> None:
    lacked = ", ".join([row["name"] for row in await connection.fetch(LACKED, login)])
    await connection.execute(
        "SELECT set_config('agentapi.login', $1, true), set_config('agentapi.lacked', $2, true)", login, lacked
    )
    await connection.execute(_GRANT)


async def _grant_columns(
    connection: _Connection, plan: Plan, prepared: Prepared | None, *, is_first: bool
) -> tuple[str, ...]:
    if all(migration.id != SINCE for migration in plan.files):
        return ()
    if prepared is not None:
        await remember(connection, prepared.readable)
    return await grant_columns(connection, narrow=plan.narrow_columns, is_first=is_first)


async def find_other_tables(url: str, variable: str | None = None) -> OtherTables | None:
    """Find tables of others in `public` beside which the migrations would create some; not in a migrated database."""
    async with owner_connection(url, variable) as connection, connection.transaction(readonly=True):
        if not await is_new(connection):
            return None
        rows = await connection.fetch(_TABLES_OF_PUBLIC)
        database = await connection.fetchval("SELECT current_database()::text")
    names = [str(row["name"]) for row in rows]
    created = tuple(name for name in SHARED if not name.startswith("v_") and name not in names)
    if not names or not created:
        return None
    examples = [one_line(name, 60) for name in names[:_MOST_EXAMPLES]]
    more = f" and {len(names) - len(examples)} more" if len(names) > len(examples) else ""
    return OtherTables(database, variable or VARIABLE, f"{', '.join(examples)}{more}", created)


async def status(url: str, variable: str | None = None) -> tuple[MigrationState, ...]:
    """List the shipped migrations with their times of application, and unknown ones of a newer program."""
    async with owner_connection(url, variable) as connection, connection.transaction(readonly=True):
        known = await connection.fetchval("SELECT to_regclass('agentapi.migrations') IS NOT NULL")
        applied: Mapping[str, Applied] = await _applied(connection) if known else {}
    shipped = {migration.id: migration for migration in migrations()}
    return tuple(_state(id_, shipped.get(id_), applied.get(id_)) for id_ in sorted({*applied, *shipped}))


async def _applied(connection: _Connection) -> Mapping[str, Applied]:
    rows = await connection.fetch("SELECT id, sha256, needs, applied_at FROM agentapi.migrations")
    return {str(row["id"]): Applied(row["sha256"], row["needs"], row["applied_at"]) for row in rows}


async def _apply(connection: _Connection, migration: Migration, applied: Mapping[str, Applied]) -> bool:
    done = applied.get(migration.id)
    if done is not None and done.sha256 != migration.sha256:
        raise StoreMismatchError(
            f"The migration {migration.id} was applied here in another form; use the program's own release, unedited."
        )
    if done is not None:
        return False
    # Without arguments, asyncpg uses the simple protocol, which accepts several statements in one string.
    await connection.execute(migration.sql)
    await connection.execute(
        "INSERT INTO agentapi.migrations (id, sha256, needs) VALUES ($1, $2, $3)",
        migration.id,
        migration.sha256,
        migration.needs,
    )
    return True


def _state(id_: str, shipped: Migration | None, applied: Applied | None) -> MigrationState:
    if applied is None:
        return MigrationState(id_, None)
    note = None
    if id_ in LEGACY_IDS:
        note = "from before the first release; `agentapi-mcp migrate` carries such a database over"
    elif shipped is None:
        note = f"of a newer program; needs agentapi-mcp {applied.needs}"
    elif shipped.sha256 != applied.sha256:
        note = "applied in another form than this program's"
    return MigrationState(id_, applied.at, note)
