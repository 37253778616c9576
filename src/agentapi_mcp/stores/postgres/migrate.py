"""Numbered SQL files, applied forward, each in one transaction that locks, looks, applies and records."""

import hashlib
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources

import asyncpg

from agentapi_mcp.core.errors import StoreError, StoreMismatchError, StoreUnavailableError
from agentapi_mcp.stores.postgres.database import Database, map_errors

_LOCK = 7_206_310
_BOOTSTRAP = """
CREATE SCHEMA IF NOT EXISTS agentapi;
CREATE TABLE IF NOT EXISTS agentapi.migrations (
    id text PRIMARY KEY,
    sha256 text NOT NULL,
    needs text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""
_OURS = "AA001"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file; `needs` is the oldest program that may run on a database that has it."""

    id: str
    sql: str
    sha256: str
    needs: str


@dataclass(frozen=True, slots=True)
class MigrationState:
    """A migration, and when it was applied here; None when it was not."""

    id: str
    applied_at: datetime | None


@cache
def migrations() -> tuple[Migration, ...]:
    """Read the shipped files, in order."""
    folder = resources.files("agentapi_mcp.stores.postgres") / "migrations"
    found: list[Migration] = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".sql"):
            continue
        sql = file.read_text(encoding="utf-8")
        needs = re.match(r"-- needs: (\d+\.\d+\.\d+)\n", sql)
        if needs is None:
            raise StoreMismatchError(f"The migration {file.name} does not say which program it needs.")
        found.append(Migration(file.name[:-4], sql, hashlib.sha256(sql.encode()).hexdigest(), needs[1]))
    return tuple(found)


async def migrate(url: str, *, program: str, grant_to: str | None = None, dry_run: bool = False) -> tuple[str, ...]:
    """Apply what is missing, as the owner of the tables, and return its ids; with `dry_run` all of it is rolled back.

    Raises:
        StoreMismatchError: the database does not fit, a newer program migrated it, or grants are missing.
        StoreUnavailableError: it does not answer.
    """
    ran: list[str] = []
    async with _connection(url) as connection:
        if dry_run:
            transaction = connection.transaction()
            await transaction.start()
            try:
                for migration in migrations():
                    await _apply(connection, migration, program, ran)
            finally:
                await transaction.rollback()
            return tuple(ran)
        for migration in migrations():
            async with connection.transaction():
                await _apply(connection, migration, program, ran)
        if grant_to is not None:
            await _grant(connection, grant_to)
    return tuple(ran)


async def status(url: str) -> tuple[MigrationState, ...]:
    """List the shipped migrations with the time each was applied, and any that only a newer program knows."""
    async with _connection(url) as connection:
        known = await connection.fetchval("SELECT to_regclass('agentapi.migrations') IS NOT NULL")
        rows = await connection.fetch("SELECT id, applied_at FROM agentapi.migrations ORDER BY id") if known else []
    applied: dict[str, datetime] = {row["id"]: row["applied_at"] for row in rows}
    ids = sorted({*applied, *(m.id for m in migrations())})
    return tuple(MigrationState(id_, applied.get(id_)) for id_ in ids)


async def is_current(database: Database, *, program: str) -> bool:
    """Tell whether every shipped migration is applied.

    Raises:
        StoreMismatchError: a newer program has migrated this database past this one.
    """
    try:
        async with database.as_system("compare the schema with the program") as connection:
            rows = await connection.fetch("SELECT id, sha256, needs FROM agentapi.migrations")
    except StoreUnavailableError:
        raise
    except StoreError:  # not even the role or the table is there
        return False
    applied = {row["id"]: (row["sha256"], row["needs"]) for row in rows}
    _refuse_newer([needs for _, needs in applied.values()], program)
    return all(applied.get(m.id, ("", ""))[0] == m.sha256 for m in migrations())


@asynccontextmanager
async def _connection(url: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    with map_errors():
        connection = await asyncpg.connect(url, timeout=15, command_timeout=120, statement_cache_size=0)
        try:
            yield connection
        except asyncpg.PostgresError as exc:
            if exc.sqlstate == _OURS or isinstance(exc, asyncpg.InsufficientPrivilegeError):
                raise StoreMismatchError(f"{exc.args[0]}. Nothing was changed.") from exc
            raise
        finally:
            connection.terminate()


async def _apply(
    connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration, program: str, ran: list[str]
) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    await connection.execute("SET LOCAL client_min_messages = warning")
    await connection.execute(_BOOTSTRAP)
    rows = await connection.fetch("SELECT id, sha256, needs FROM agentapi.migrations")
    _refuse_newer([row["needs"] for row in rows], program)
    have = {row["id"]: row["sha256"] for row in rows}.get(migration.id)
    if have == migration.sha256:
        return
    if have is not None:
        raise StoreMismatchError(
            f"The migration {migration.id} was applied here in another form; use the program's own release, unedited."
        )
    await connection.execute(migration.sql)
    await connection.execute(
        "INSERT INTO agentapi.migrations (id, sha256, needs) VALUES ($1, $2, $3)",
        migration.id,
        migration.sha256,
        migration.needs,
    )
    ran.append(migration.id)


async def _grant(connection: "asyncpg.Connection[asyncpg.Record]", login: str) -> None:
    await connection.execute("SELECT set_config('agentapi.login', $1, false)", login)
    await connection.execute(
        "DO $$ BEGIN EXECUTE format('GRANT authenticated, agentapi_system TO %I', "
        "current_setting('agentapi.login')); END $$"
    )


def _refuse_newer(needs: Sequence[str], program: str) -> None:
    newest = max(needs, key=_version, default="0.0.0")
    if _version(newest) > _version(program):
        raise StoreMismatchError(
            f"A newer program migrated this database: it needs agentapi-mcp {newest}, this is {program}. Upgrade."
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
