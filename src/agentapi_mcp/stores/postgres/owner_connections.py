"""Connections of the owner of the tables, for migrations and for the pruning of the audit log."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeAlias

import asyncpg

from agentapi_mcp.base.errors import StoreMismatchError, StoreUnavailableError
from agentapi_mcp.stores.postgres.database import connect
from agentapi_mcp.stores.postgres.faults import map_errors

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_log = logging.getLogger(__name__)
# SQLSTATE of the errors that our SQL raises with a message for the operator; Postgres uses no class AA.
OURS = "AA001"
# Above the statement_timeout in `_BOUNDS` of a migration: the server ends a long statement first.
_PATIENCE = timedelta(minutes=20)


@asynccontextmanager
async def owner_connection(url: str, variable: str | None = None) -> AsyncGenerator[_Connection]:
    """Connect as the owner of the tables; errors are mapped for the operator who runs `migrate`."""
    with map_errors(variable):
        connection = await connect(
            url, variable, timeout=15, command_timeout=_PATIENCE.total_seconds(), statement_cache_size=0
        )
        try:
            yield connection
        except asyncpg.PostgresError as exc:
            raise _named(_explained(exc), variable) from exc
        except StoreMismatchError as exc:
            raise _named(exc, variable) from exc
        finally:
            # `close` would wait for the server; an open transaction is rolled back in any case.
            connection.terminate()


def _named(exc: Exception, variable: str | None) -> Exception:
    """Name the variable that decided on the database, which may be another one than was meant."""
    return StoreMismatchError(f"{variable}: {exc}") if variable and isinstance(exc, StoreMismatchError) else exc


def _explained(exc: asyncpg.PostgresError) -> Exception:
    if exc.sqlstate == OURS:
        return StoreMismatchError(f"{exc.args[0]}. Nothing was changed.")
    if isinstance(exc, asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError):
        return StoreUnavailableError(
            "Another transaction keeps a table that the migration needs; nothing was changed. Try again after it."
        )
    if isinstance(exc, asyncpg.InsufficientPrivilegeError):
        _log.warning("migration_refused", extra={"reason": exc.args[0]})
        return StoreMismatchError(
            "The login lacks a right that this needs, and the log names it; nothing was changed. Use the login that "
            "owns the tables (AGENTAPI_MIGRATE_DATABASE_URL)."
        )
    return exc
