"""The two doors to Postgres: as a principal, under row-level security, and as the program itself."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString, Protocol

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from agentapi_mcp.base.errors import (
    AgentApiError,
    ConfigurationError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
)
from agentapi_mcp.base.ids import SessionId
from agentapi_mcp.core.identity.principals import Principal

_LOST: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server has just ended the connection, which asyncpg has only half noticed
)
_UNAVAILABLE: tuple[type[Exception], ...] = (
    *_LOST,
    TimeoutError,
    asyncpg.QueryCanceledError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientResourcesError,
)
_AGAIN = "Try again in a moment."
_CHECK = "Check AGENTAPI_DATABASE_URL."


@dataclass(frozen=True, slots=True)
class _DatabaseFault:
    what: str
    next_step: str


# The first class that fits says what is wrong; the last one fits all.
_FAULTS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], _DatabaseFault], ...] = (
    (
        socket.gaierror,
        _DatabaseFault("its host is not known", f"{_CHECK} In a password, @ / # ? % and : must be percent-encoded."),
    ),
    (ssl.SSLError, _DatabaseFault("TLS with it fails", _CHECK)),
    (asyncpg.InvalidAuthorizationSpecificationError, _DatabaseFault("it refuses the user or the password", _CHECK)),
    (asyncpg.InvalidCatalogNameError, _DatabaseFault("it has no database of this name", _CHECK)),
    (
        (asyncpg.TooManyConnectionsError, asyncpg.InsufficientResourcesError),
        _DatabaseFault("it has no connection or memory left", _AGAIN),
    ),
    ((TimeoutError, asyncpg.QueryCanceledError), _DatabaseFault("it does not answer in time", _AGAIN)),
    (
        ConnectionRefusedError,
        _DatabaseFault("nothing answers at its address", f"Start it, or check the address. {_AGAIN}"),
    ),
    (Exception, _DatabaseFault("the connection to it is lost or refused", _AGAIN)),
)
_MISFIT: tuple[type[Exception], ...] = (
    asyncpg.SyntaxOrAccessError,
    asyncpg.InvalidSchemaNameError,
)
# A prepared statement of this connection is not there, or is there already: the server's connection is another one.
_POOLED: tuple[type[Exception], ...] = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)

Row = asyncpg.Record


class Server(Protocol):
    """Where the database is, and how to bring it back."""

    async def url(self) -> str:
        """Return the address of a server that should be up, with the application's login."""
        ...

    async def recover(self) -> str:
        """Do what can be done after a refused connection, and return the address again."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """A server that somebody else runs; nothing here can bring it back."""

    address: str

    async def url(self) -> str:
        """Return the address."""
        return self.address

    async def recover(self) -> str:
        """Return the address."""
        return self.address


def _meaning(exc: BaseException) -> str:
    trouble = next(trouble for kinds, trouble in _FAULTS if isinstance(exc, kinds))
    if isinstance(exc, ConnectionError) and "SSL" in str(exc):  # asyncpg has no class of its own for it
        trouble = _DatabaseFault("it does not speak TLS, which sslmode demands", _CHECK)
    return f"The database cannot be used: {trouble.what}; nothing was changed. {trouble.next_step}"


@contextmanager
def map_errors() -> Generator[None]:
    """Turn the driver's exceptions into ours; the driver's text goes no further than the cause."""
    try:
        yield
    except AgentApiError:
        raise
    except _UNAVAILABLE as exc:
        raise StoreUnavailableError(_meaning(exc)) from exc
    except _POOLED as exc:
        raise StoreMismatchError(
            "A connection pooler in transaction mode stands before the database: set AGENTAPI_STATEMENT_CACHE=false."
        ) from exc
    except _MISFIT as exc:
        raise StoreMismatchError(
            "The database is not of the shape this program needs; run `agentapi-mcp migrate`."
        ) from exc
    except asyncpg.PostgresError as exc:
        raise StoreError("The database refused this; nothing was changed. The log has the details.") from exc


async def connect(url: str, **options: Any) -> "asyncpg.Connection[Row]":  # noqa: ANN401  # asyncpg's own
    """Connect to a server.

    Raises:
        ConfigurationError: this is no address of one.
    """
    try:
        return await asyncpg.connect(url, **options)
    except ValueError as exc:
        raise ConfigurationError(
            "AGENTAPI_DATABASE_URL is no address of a Postgres: it is postgresql://USER:PASSWORD@HOST:5432/DATABASE, "
            "with special characters of the password percent-encoded."
        ) from exc


@dataclass(frozen=True, slots=True)
class Connection:
    """One open transaction; SQL must be a literal."""

    _raw: "PoolConnectionProxy[Row]"

    async def fetch(self, sql: LiteralString, *args: object) -> list[Row]:
        """Return all rows."""
        return await self._raw.fetch(sql, *args)

    async def fetchrow(self, sql: LiteralString, *args: object) -> Row | None:
        """Return the first row, if there is one."""
        return await self._raw.fetchrow(sql, *args)

    async def fetchval(self, sql: LiteralString, *args: object) -> Any:  # noqa: ANN401  # a column of any type
        """Return the first column of the first row."""
        return await self._raw.fetchval(sql, *args)

    async def execute(self, sql: LiteralString, *args: object) -> str:
        """Run a statement and return its command tag."""
        return await self._raw.execute(sql, *args)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """How the pool behaves; behind a transaction pooler there is no statement cache and no LISTEN."""

    max_size: int = 5
    acquire_timeout: timedelta = timedelta(seconds=10)
    command_timeout: timedelta = timedelta(seconds=30)
    statement_cache: bool = True


async def _skip_reset(_connection: object) -> None:
    """Reset nothing when a connection comes back: every setting is transaction-local, and the reset is a round trip."""


class Database:
    """A pool whose every statement runs in a transaction of a known role; opened with `open_database`."""

    def __init__(self, pool: "asyncpg.Pool[Row]", options: PoolOptions) -> None:
        self._pool = pool
        self._options = options

    def as_principal(
        self, principal: Principal, *, session_id: SessionId | None = None, plan_once: bool = False
    ) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction that reads, as `authenticated` with the principal's claims, under row-level security.

        `session_id` is the session whose messages it reads, which the policies then look for once. With `plan_once` its
        statements are planned once for all arguments: right where one index serves them all, since with the policies
        in it a plan takes as long as what it plans.
        """
        plan_once = plan_once and self._options.statement_cache
        return self._transaction("authenticated", _claims(principal, session_id), plan_once=plan_once)

    def as_writer(self, principal: Principal) -> AbstractAsyncContextManager[Connection]:
        """Open one that writes too, as a role that no outside client can take, under row-level security as well."""
        return self._transaction("agentapi_writer", _claims(principal))

    def as_system(self, reason: LiteralString) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction as the program itself; `reason` says why it may see every tenant's rows."""
        return self._transaction("agentapi_system", json.dumps({"reason": reason}))

    @asynccontextmanager
    async def _transaction(
        self, role: LiteralString, claims: str, *, plan_once: bool = False
    ) -> AsyncGenerator[Connection]:
        with map_errors():
            raw = await self._begin(role, claims, plan_once=plan_once)
            try:
                yield Connection(raw)
                await raw.execute("COMMIT")
            except BaseException:
                await asyncio.shield(self._undo(raw))  # not round every commit: a task for each costs a turn 3 ms
                raise
            await self._pool.release(raw)

    async def _undo(self, raw: "PoolConnectionProxy[Row]") -> None:
        """End what is open and give the connection back, also when whoever opened it has left and waits no more."""
        try:
            with suppress(*_LOST):  # a lost connection has nothing open
                await raw.execute("ROLLBACK")
        finally:
            await self._pool.release(raw)

    async def _begin(self, role: LiteralString, claims: str, *, plan_once: bool) -> "PoolConnectionProxy[Row]":
        # One round trip: a transaction that changes its mind between BEGIN and the role costs every turn four of them.
        quoted = claims.replace("'", "''")
        plans = "SET LOCAL plan_cache_mode = force_generic_plan; " if plan_once else ""
        begin = f"BEGIN; {plans}SET LOCAL ROLE {role}; SELECT set_config('request.jwt.claims', '{quoted}', true)"
        # A pooled connection may have died with its server; nothing is done yet, so a second try is safe.
        for last in (False, True):
            raw = await self._pool.acquire(timeout=self._options.acquire_timeout.total_seconds())
            try:
                await raw.execute(begin)
            except BaseException as exc:
                await asyncio.shield(self._undo(raw))
                if last or not isinstance(exc, _LOST):
                    raise
            else:
                return raw
        raise AssertionError


def _claims(principal: Principal, session_id: SessionId | None = None) -> str:
    """Say who asks, as the policies read it (0001_schema.sql, section 5)."""
    claims: dict[str, object] = {
        "sub": str(principal.user_id),
        "role": "authenticated",
        "agentapi_org": str(principal.org_id),
        "agentapi_role": principal.role,
    }
    limits: dict[str, frozenset[str] | None] = {
        "agentapi_scopes": principal.scopes,
        "agentapi_allowed": principal.exceptions.allowed or None,
        "agentapi_denied": principal.exceptions.denied or None,
    }
    claims |= {name: sorted(names) for name, names in limits.items() if names is not None}
    if session_id is not None:
        claims["agentapi_session"] = str(session_id)
    return json.dumps(claims, separators=(",", ":"))


@asynccontextmanager
async def open_database(server: Server, options: PoolOptions) -> AsyncGenerator[Database]:
    """Open a pool on the server; it is closed, in-flight work included, when the context ends."""

    async def reach(*_args: object, **kwargs: Any) -> "asyncpg.Connection[Row]":  # noqa: ANN401  # asyncpg's own
        try:
            return await connect(await server.url(), **kwargs)
        except _LOST:
            return await connect(await server.recover(), **kwargs)

    with map_errors():
        pool = await asyncpg.create_pool(
            init_size=1,
            min_size=0,
            max_size=options.max_size,
            connect=reach,
            reset=_skip_reset,
            command_timeout=options.command_timeout.total_seconds(),
            timeout=options.acquire_timeout.total_seconds(),
            statement_cache_size=100 if options.statement_cache else 0,
        )
    try:
        yield Database(pool, options)
    finally:
        pool.terminate()
