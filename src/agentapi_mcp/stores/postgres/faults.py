"""The driver's exceptions as errors of the core: what is wrong with the database, and what to do."""

import socket
import ssl
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import TracebackType

import asyncpg

from agentapi_mcp.base.errors import (
    AgentApiError,
    StoreBusyError,
    StoreError,
    StoreMismatchError,
    StoreSlowError,
    StoreUnavailableError,
    StoreUnclearError,
)
from agentapi_mcp.base.exceptions import with_notes_of

# The connection is gone, and with it any transaction on it that was not committed.
LOST: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg raises it for a connection that the server has just closed
)
_AGAIN = "Try again in a moment."
_CHECK = "Check {variable}."
_LOGGED = "The log has the details."
# The variable of an address that the caller names no variable for.
VARIABLE = "AGENTAPI_DATABASE_URL"


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong, as one of the errors of the core.

    StoreUnavailableError: outside the statement, which can succeed once the server, its load or its access is restored.
    StoreBusyError: another transaction is in the way. StoreError: the statement fails again.
    """

    what: str
    next_step: str = _AGAIN
    error: type[StoreError] = StoreUnavailableError


# The first matching class gives the reason.
_FAULTS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], _Fault], ...] = (
    (
        socket.gaierror,
        _Fault("its host is not known", f"{_CHECK} In a password, @ / # ? % and : must be percent-encoded."),
    ),
    (ssl.SSLError, _Fault("TLS with it fails", _CHECK)),
    (asyncpg.InvalidAuthorizationSpecificationError, _Fault("it refuses the user or the password", _CHECK)),
    (
        (asyncpg.InvalidCatalogNameError, asyncpg.DatabaseDroppedError),
        _Fault("it has no database of this name", _CHECK),
    ),
    (asyncpg.DiskFullError, _Fault("its disk is full", "Make room on it, then try again.")),
    (asyncpg.OutOfMemoryError, _Fault("it has no memory left")),
    (asyncpg.TooManyConnectionsError, _Fault("it has no connection left")),
    (
        asyncpg.ConfigurationLimitExceededError,
        _Fault("A limit of the database's configuration is too low for this", _LOGGED, StoreError),
    ),
    (asyncpg.InsufficientResourcesError, _Fault("it lacks the resources for this")),
    (
        asyncpg.ProgramLimitExceededError,
        _Fault("This is more than the database can process at once", _LOGGED, StoreError),
    ),
    (
        asyncpg.ReadOnlySQLTransactionError,
        _Fault(
            "it is read-only, as a standby is, or a hosted one whose disk is full", "Make room, or check {variable}."
        ),
    ),
    (asyncpg.PostgresIOError, _Fault("it cannot read or write its files", "Its own log says why.")),
    (asyncpg.LockNotAvailableError, _Fault("Another transaction holds what this needs", _AGAIN, StoreBusyError)),
    (
        (asyncpg.DeadlockDetectedError, asyncpg.SerializationError),
        _Fault("Another transaction changed the same at the same time", _AGAIN, StoreBusyError),
    ),
    (
        (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError),
        _Fault("its schema was changed a moment ago"),
    ),
    (
        (
            asyncpg.IdleSessionTimeoutError,
            asyncpg.IdleInTransactionSessionTimeoutError,
            asyncpg.TransactionTimeoutError,
        ),
        _Fault("it closed a connection that took too long"),
    ),
    ((TimeoutError, asyncpg.QueryCanceledError), _Fault("it does not answer in time")),
    (
        (asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.CannotConnectNowError),
        _Fault("it is starting, stopping, or closes connections"),
    ),
    (ConnectionRefusedError, _Fault("nothing answers at its address", f"Start it, or check the address. {_AGAIN}")),
    (
        asyncpg.TargetServerAttributeNotMatched,
        _Fault(
            "a standby answers at its address, and no primary", "Wait for the failover to end, or check {variable}."
        ),
    ),
    (LOST, _Fault("the connection to it is lost or refused")),
)
_REFUSED = _Fault("The database refused this", _LOGGED, StoreError)
# It is told of no error where it is not known.
_UNCHANGED = "nothing was changed"
# The transaction may be committed: the connection was lost, or the answer late, after COMMIT had been sent.
_UNCLEAR: tuple[type[Exception], ...] = (*LOST, TimeoutError)
# The server itself does not know.
_UNKNOWN: tuple[type[Exception], ...] = (
    asyncpg.TransactionResolutionUnknownError,
    asyncpg.StatementCompletionUnknownError,
)
# The schema or its grants do not fit the statement: only a migration helps.
_MISFIT: tuple[type[Exception], ...] = (
    asyncpg.SyntaxOrAccessError,
    asyncpg.InvalidSchemaNameError,
)
POOLER = "A connection pooler in transaction mode stands before the database: set AGENTAPI_STATEMENT_CACHE=false."
# A prepared statement is missing or exists already: a transaction pooler has switched the server connection.
_POOLED: tuple[type[Exception], ...] = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)


class _Mapping:
    """A context that raises other exceptions; a class, since each turn has four, and a generator costs more."""

    __slots__ = ("_error_of",)

    def __init__(self, error_of: Callable[[Exception], Exception | None]) -> None:
        self._error_of = error_of

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(raised, Exception) and not isinstance(raised, AgentApiError):
            error = self._error_of(raised)
            if error is not None:
                raise with_notes_of(raised, error) from raised


def map_errors(variable: str | None = None) -> AbstractContextManager[None]:
    """Map the driver's exceptions to ours; the driver's message stays in the cause.

    `variable` is the environment variable with the address, which messages name.
    """
    return _Mapping(partial(_error_of, variable=variable or VARIABLE))


def is_unavailable(exc: Exception) -> bool:
    """Return whether the server cannot be used: the same call can succeed once it is restored."""
    fault = _fault_of(exc)
    return fault is not None and fault.error is StoreUnavailableError


def committing() -> AbstractContextManager[None]:
    """Raise that the outcome is not known if the connection is lost, or the answer late, during a COMMIT.

    Raises:
        StoreUnclearError: the transaction may be committed or not.
    """
    return _COMMITTING


@contextmanager
def limiting(limit: timedelta) -> Generator[None]:
    """Raise that a list or search took too long if the server ends its statement.

    Raises:
        StoreSlowError: it took longer than `limit`.
    """
    try:
        yield
    except asyncpg.QueryCanceledError as exc:
        raise StoreSlowError(
            f"This list or search took longer than {limit.total_seconds():g} s and was ended: ask for less, with a "
            "lower limit, for one agent, or without a query. If that does not help, the database is busy: try again "
            "later."
        ) from exc


def _error_of(exc: Exception, variable: str) -> AgentApiError | None:
    if isinstance(exc, _UNKNOWN):
        return _unclear()
    fault = _fault_of(exc)
    if fault is not None and fault.error is not StoreError:
        what = f"The database cannot be used: {fault.what}" if fault.error is StoreUnavailableError else fault.what
        return fault.error(f"{what}; {_UNCHANGED}. {fault.next_step.format(variable=variable)}")
    if isinstance(exc, _POOLED):
        return StoreMismatchError(POOLER)
    if isinstance(exc, _MISFIT):
        return StoreMismatchError("The database is not of the shape this program needs; run `agentapi-mcp migrate`.")
    if not isinstance(exc, asyncpg.PostgresError):
        return None
    fault = fault or _REFUSED
    refused = StoreError(f"{fault.what}; {_UNCHANGED}. {fault.next_step}")
    refused.add_note(f"Postgres: {exc} (SQLSTATE {exc.sqlstate}).")
    return refused


def _fault_of(exc: Exception) -> _Fault | None:
    if isinstance(exc, ConnectionError) and "SSL" in str(exc):  # asyncpg has no exception class for it
        return _Fault("it does not speak TLS, which sslmode demands", _CHECK)
    return next((fault for kinds, fault in _FAULTS if isinstance(exc, kinds)), None)


def _unclear() -> StoreUnclearError:
    return StoreUnclearError(
        "The database did not confirm a change: it is not known whether the change was made. Look before you try again."
    )


_COMMITTING = _Mapping(lambda exc: _unclear() if isinstance(exc, _UNCLEAR) else None)
