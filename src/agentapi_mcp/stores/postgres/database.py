"""Access to Postgres as a principal, under row-level security, and as the program itself."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, LiteralString, Protocol
from uuid import UUID

import asyncpg
from typing_extensions import override

from agentapi_mcp.base.addresses import host_and_port
from agentapi_mcp.base.errors import ConfigurationError, StoreUnavailableError, StoreUnclearError
from agentapi_mcp.base.far_times import microseconds_of, time_of
from agentapi_mcp.base.ids import SessionId, UserId, new_id
from agentapi_mcp.base.json_texts import json_text
from agentapi_mcp.base.store_waits import STORE_SECONDS
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.connections import Connections, Lane
from agentapi_mcp.stores.postgres.faults import LOST, VARIABLE, committing, is_unavailable, limiting, map_errors
from agentapi_mcp.stores.postgres.hosts import Hosts
from agentapi_mcp.stores.postgres.pool import Pool, Row
from agentapi_mcp.stores.postgres.poolers import pools_transactions

_PORT = 5432
# A plan that is kept outlives the time when its tables were so small that a scan seemed cheap.
_PLAN_ONCE: LiteralString = "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; "
_PLAN_EACH = "SET LOCAL plan_cache_mode = force_custom_plan; "
_MS = timedelta(milliseconds=1)
# How the server's list of connections begins the name of each process.
APPLICATION: LiteralString = "agentapi-mcp "


class Server(Protocol):
    """Address of the database server, and how to recover it."""

    async def url(self) -> str:
        """Return the URL of the running server, with the application's login."""
        ...

    async def recover(self) -> str:
        """Try to recover after a refused connection, and return the URL."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteServer(Server):
    """An external server, which this program cannot restart."""

    address: str

    @override
    async def url(self) -> str:
        return self.address

    @override
    async def recover(self) -> str:
        return self.address


def parse_hosts(url: str, variable: str | None = None, moved: Callable[[], None] = lambda: None) -> Hosts:
    """Take an address apart.

    Raises:
        ConfigurationError: it is no URL, or asks for a server that cannot be written.
    """
    try:
        return Hosts(url, variable, moved)
    except ValueError as exc:
        raise _no_address(variable) from exc


async def connect(
    address: str | Hosts,
    variable: str | None = None,
    **options: Any,  # noqa: ANN401  # asyncpg's own
) -> "asyncpg.Connection[Row]":
    """Connect to a server; a failure notes which address `variable` names, where it is the operator's.

    Raises:
        ConfigurationError: the URL is not a Postgres URL, has a parameter that the server does not know or whose value
            it refuses, or asks for a server that cannot be written.
    """
    hosts = parse_hosts(address, variable) if isinstance(address, str) else address
    try:
        connection = await hosts.connect(**options)
        # asyncpg fails for years that a `datetime` cannot hold. Costs no round trip: the type is built in.
        await connection.set_type_codec(
            "timestamptz", schema="pg_catalog", encoder=_time_to_bytes, decoder=_time_of_bytes, format="binary"
        )
    except (asyncpg.UndefinedObjectError, asyncpg.CantChangeRuntimeParamError) as exc:
        # What asyncpg does not know itself it sends as a setting of the session, as `pgbouncer=true` of other drivers.
        raise ConfigurationError(
            f"{variable or VARIABLE} has a parameter after its `?` that the server refuses: {exc}. Remove it."
        ) from exc
    except (asyncpg.InvalidParameterValueError, asyncpg.PostgresSyntaxError) as exc:
        # Not in its words, which repeat the value.
        raise ConfigurationError(
            f"{variable or VARIABLE} has a parameter after its `?` with a value that the server refuses. Correct or "
            "remove it."
        ) from exc
    except ValueError as exc:
        raise _no_address(variable) from exc
    except Exception as exc:
        place = host_and_port(hosts.url, _PORT)
        if is_unavailable(exc) and variable is not None and place is not None:
            # Not in the message, which callers of a shared server read too.
            exc.add_note(f"{variable} names {place}.")
        raise
    return connection


def _no_address(variable: str | None) -> ConfigurationError:
    return ConfigurationError(
        f"{variable or VARIABLE} is no address of a Postgres: it is "
        "postgresql://USER:PASSWORD@HOST:5432/DATABASE, with special characters of the password percent-encoded; after "
        "a `?` there may be parameters as libpq knows them."
    )


def _time_to_bytes(at: datetime) -> bytes:
    return microseconds_of(at).to_bytes(8, "big", signed=True)


def _time_of_bytes(data: bytes) -> datetime:
    return time_of(int.from_bytes(data, "big", signed=True))


@dataclass(frozen=True, slots=True)
class Connection:
    """An open transaction; SQL must be a literal string."""

    _raw: "asyncpg.Connection[Row]"

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
class Start:
    """How a transaction begins: in which lane and for which user, with generic plans, and with the time of a list."""

    lane: Lane = Lane.CALLS
    user: UserId | None = None
    plan_once: bool | None = None
    is_list: bool = False


_CALL = Start()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Options of the pool; without `statement_cache` it works behind a pooler in transaction mode, and does not LISTEN.

    Where that is None, it is found out.
    A process that the server refuses a connection waits for `acquire_timeout`. A server that has not begun a
    transaction after `begin_timeout` hangs; one of several has half of that, so that another is found within it. Where
    many processes share a small server, `idle_lifetime`, for which one that nobody uses is kept, must be shorter.
    """

    max_size: int = 5
    acquire_timeout: timedelta = timedelta(seconds=10)
    idle_lifetime: timedelta = timedelta(minutes=5)
    command_timeout: timedelta = timedelta(seconds=30)
    begin_timeout: timedelta = timedelta(seconds=STORE_SECONDS)
    call_timeout: timedelta = timedelta(seconds=5)
    list_timeout: timedelta = timedelta(seconds=2)
    statement_cache: bool | None = True
    process: UUID = field(default_factory=new_id)  # by whose name the server lists the connections
    variable: str | None = None  # which has the address, for messages; None for the embedded server
    read_only: bool = False  # the server then refuses whatever would change a row


class Database:
    """A pool in which every statement runs in a transaction with a known role; opened with `open_database`."""

    def __init__(self, connections: Connections, options: PoolOptions) -> None:
        self._connections = connections
        self._options = options
        self._answered_at: float | None = None
        self.process = options.process
        # Those of a pooler in transaction mode are its own: they outlive whoever uses them, hear no notification for
        # them, and keep no statement.
        self.owns_connections = options.statement_cache is not False

    @property
    def is_standby(self) -> bool:
        """Whether the server said that it follows another one, when it was connected to last."""
        return self._connections.is_standby

    def as_principal(
        self,
        principal: Principal,
        *,
        session_id: SessionId | None = None,
        plan_once: bool | None = None,
        is_list: bool = False,
    ) -> AbstractAsyncContextManager[Connection]:
        """Open a read transaction as `authenticated` with the principal's claims, under row-level security.

        `session_id` names the session whose messages are read, so that the policies look it up once. `plan_once` uses
        generic plans, for statements that one index serves whatever the arguments: with the policies, planning takes
        as long as the query itself. Where it is False, each is planned for its arguments: of what reads many rows,
        Postgres takes a generic plan for as good when it is not. `is_list` ends each statement after the time that a
        list or a search may take.

        Raises:
            StoreSlowError: a statement of a list took longer.
        """
        if not self.owns_connections:
            plan_once = None  # without the cache no statement stays prepared, so there is no generic plan to reuse
        start = Start(plan_once=plan_once, is_list=is_list, user=principal.user_id)
        return self._transaction("authenticated", _claims(principal, _session_claim(session_id)), start, writes=False)

    def as_writer(self, principal: Principal) -> AbstractAsyncContextManager[Connection]:
        """Open a write transaction, as a role that no outside client can assume, under row-level security."""
        return self._transaction("agentapi_writer", _claims(principal), Start(user=principal.user_id))

    def on_renewal(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call the listener when connections made before may lead to a server that is not the primary any more."""
        return self._connections.on_renewal(listener)

    def has_answered_within(self, period: timedelta) -> bool:
        """Return whether the server has begun a transaction within this time, for whomever."""
        return self._answered_at is not None and time.monotonic() - self._answered_at < period.total_seconds()

    def as_system(
        self, reason: LiteralString, *, user: UserId | None = None, lane: Lane = Lane.CALLS, is_list: bool = False
    ) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction as the program itself; `reason` documents why it may access every tenant's rows.

        `user` is the one who asks for it, and whose share of the connections it takes; without one it goes first.

        Raises:
            StoreSlowError: a statement of a list took longer than a list may.
        """
        start = Start(lane=lane, user=user, is_list=is_list)
        return self._transaction("agentapi_system", json.dumps({"reason": reason}), start)

    async def call(
        self, principal: Principal, sql: LiteralString, *args: object, claims: Mapping[str, object] | None = None
    ) -> Row:
        """Select a row from a function that takes the principal's claims, its first parameter, and the role itself.

        It is one statement, and so a transaction of its own. `claims` are added to those of the principal.

        Raises:
            StoreBusyError: a row is locked by another transaction for long; nothing was changed.
            StoreUnclearError: the answer was lost, and it is not known whether it was done.
        """
        return await self._call(Start(user=principal.user_id), sql, _claims(principal, claims), *args)

    async def call_to_read(self, principal: Principal, sql: LiteralString, *args: object) -> Row:
        """Select a row from such a function which changes nothing."""
        start, claims = Start(user=principal.user_id), _claims(principal)
        try:
            return await self._call(start, sql, claims, *args, writes=False)
        except StoreUnavailableError as exc:
            # A pooled connection may have died with its server, and nothing was changed.
            hangs = isinstance(exc.__cause__, TimeoutError) and not self._connections.has_several_hosts
            if hangs or not isinstance(exc.__cause__, LOST):
                raise
        return await self._call(start, sql, claims, *args, writes=False)

    async def call_as_system(self, reason: LiteralString, sql: LiteralString, *args: object) -> Row:
        """Select a row from a function that takes the role of the program itself; `reason` is that of `as_system`.

        Raises:
            StoreUnclearError: the answer was lost, and it is not known whether it was done.
        """
        del reason
        return await self._call(_CALL, sql, *args)

    async def _call(self, start: Start, sql: LiteralString, *args: object, writes: bool = True) -> Row:
        if self._options.read_only:  # these functions write, and their transaction is not begun here
            raise AssertionError
        with map_errors(self._options.variable):
            raw = await self._connections.acquire(start.lane, start.user)
            timeout = self._options.call_timeout.total_seconds() if writes else self._begin_seconds
            began = time.monotonic()
            try:
                with committing() if writes and not raw.is_closed() else nullcontext():
                    row = await raw.fetchrow(sql, *args, timeout=timeout)
            except (asyncio.CancelledError, StoreUnclearError, *LOST) as exc:
                # Who gives up after that time has waited for a server that says nothing.
                gave_up = isinstance(exc, asyncio.CancelledError) and time.monotonic() - began >= self._begin_seconds
                self._discard(raw, start, TimeoutError() if gave_up else exc)
                raise
            except BaseException as exc:  # the statement was a transaction of its own, and is undone
                self._connections.note(exc, raw)
                self._connections.release(raw, start.lane, start.user)
                raise
            self._connections.release(raw, start.lane, start.user)
        if row is None:
            raise AssertionError
        self._answered_at = time.monotonic()
        return row

    @asynccontextmanager
    async def _transaction(
        self, role: LiteralString, claims: str, start: Start = _CALL, *, writes: bool = True
    ) -> AsyncGenerator[Connection]:
        with map_errors(self._options.variable):
            raw = await self._begin(role, claims, start)
            try:
                with limiting(self._options.list_timeout) if start.is_list else nullcontext():
                    yield Connection(raw)
                # asyncpg's own transaction object is not used, since `_begin` has begun in one round trip with role and
                # claims. On a connection that is closed already, COMMIT is not sent: then nothing was changed.
                with committing() if writes and not raw.is_closed() else nullcontext():
                    await raw.execute("COMMIT")
            except (asyncio.CancelledError, StoreUnclearError, TimeoutError, *LOST) as exc:
                # Without a word to a server that may not answer; it rolls back when it sees the connection closed.
                self._discard(raw, start, exc)
                raise
            except BaseException as exc:
                self._connections.note(exc, raw)
                # Only a failure is shielded: a task around every commit would cost a turn 3 ms.
                await asyncio.shield(self._undo(raw, start))
                raise
            # Not in a `finally`: after a failure, `_undo` has released it already.
            self._connections.release(raw, start.lane, start.user)

    def _discard(self, raw: "asyncpg.Connection[Row]", start: Start, why: BaseException) -> None:
        """Close a connection whose server does not answer, without a word to it, and make room in the pool."""
        self._connections.note(why, raw)
        with suppress(*LOST):
            raw.terminate()
        self._connections.release(raw, start.lane, start.user)

    async def _undo(self, raw: "asyncpg.Connection[Row]", start: Start) -> None:
        """Roll back and release the connection, even when the caller has been cancelled."""
        try:
            with suppress(*LOST):  # a lost connection has no open transaction
                await raw.execute("ROLLBACK")
        finally:
            self._connections.release(raw, start.lane, start.user)

    @property
    def _begin_seconds(self) -> float:
        """How long a server may take for what it does at once."""
        # A pooler begins once it has a connection for it.
        most = self._options.begin_timeout if self.owns_connections else self._options.acquire_timeout
        return most.total_seconds() / (2 if self._connections.has_several_hosts else 1)

    async def _begin(self, role: LiteralString, claims: str, start: Start) -> "asyncpg.Connection[Row]":
        # BEGIN, role and claims in one round trip; separately they would cost every turn four.
        # A string of several statements takes no parameters; with standard_conforming_strings, only quotes need
        # escaping.
        quoted = claims.replace("'", "''")
        plans = "" if start.plan_once is None else _PLAN_ONCE if start.plan_once else _PLAN_EACH
        limit = f"SET LOCAL statement_timeout = {self._options.list_timeout // _MS}; " if start.is_list else ""
        mode = " READ ONLY" if self._options.read_only else ""
        role_and_claims = f"SET LOCAL ROLE {role}; SELECT set_config('request.jwt.claims', '{quoted}', true)"
        begin = f"BEGIN{mode}; {plans}{limit}{role_and_claims}"
        # A pooled connection may have died with its server; nothing has run yet, so one retry is safe.
        for last in (False, True):
            raw = await self._connections.acquire(start.lane, start.user)
            try:
                await raw.execute(begin, timeout=self._begin_seconds)
            except (asyncio.CancelledError, *LOST) as exc:
                self._discard(raw, start, exc)
                # A TimeoutError is one of LOST: the server hangs, and if there is no other, the caller has waited long
                # enough.
                hangs = isinstance(exc, TimeoutError) and not self._connections.has_several_hosts
                if last or hangs or isinstance(exc, asyncio.CancelledError):
                    raise
            except BaseException:
                await asyncio.shield(self._undo(raw, start))
                raise
            else:
                self._answered_at = time.monotonic()
                return raw
        raise AssertionError


def _session_claim(session_id: SessionId | None) -> Mapping[str, object]:
    return {} if session_id is None else {"agentapi_session": str(session_id)}


def _claims(principal: Principal, more: Mapping[str, object] | None = None) -> str:
    """Serialize the principal's claims for the policies (0001_schema.sql, section 5)."""
    claims: dict[str, object] = {
        "sub": principal.user_id,
        "role": "authenticated",
        "agentapi_org": principal.org_id,
        "agentapi_role": str(principal.role),
    }
    limits: dict[str, frozenset[str] | None] = {
        "agentapi_scopes": principal.scopes,
        "agentapi_allowed": principal.exceptions.allowed or None,
        "agentapi_denied": principal.exceptions.denied or None,
    }
    claims |= {name: sorted(names) for name, names in limits.items() if names is not None}
    return json_text(claims if more is None else claims | dict(more))


@asynccontextmanager
async def open_database(server: Server, options: PoolOptions) -> AsyncGenerator[Database]:
    """Open a pool on the server; leaving the context closes it, even with work in flight."""
    hosts: Hosts | None = None

    async def reach(url: str) -> "asyncpg.Connection[Row]":
        nonlocal hosts
        if hosts is None or hosts.url != url:  # an embedded server may have another address after `recover`
            hosts = parse_hosts(url, options.variable, pool.renew)
        connections.hosts = hosts
        raw = await connect(
            hosts,
            options.variable,
            command_timeout=options.command_timeout.total_seconds(),
            timeout=options.acquire_timeout.total_seconds(),
            # A prepared statement belongs to one server connection, and a transaction pooler may use another one next
            # time.
            statement_cache_size=0 if options.statement_cache is False else 100,
            server_settings={"application_name": f"{APPLICATION}{options.process}"},
        )
        connections.is_standby = getattr(raw.get_settings(), "in_hot_standby", "off") == "on"
        return raw

    async def reach_or_recover() -> "asyncpg.Connection[Row]":
        try:
            return await reach(await server.url())
        # Two of LOST: a server that hangs is up, and the caller has waited long enough; a primary is waited for.
        except (TimeoutError, asyncpg.TargetServerAttributeNotMatched):
            raise
        except LOST:
            # An embedded server may have stopped or been killed since; `recover` starts it again.
            return await reach(await server.recover())

    # All settings are transaction-local, so a connection needs no reset, which would cost a round trip.
    pool = Pool(reach_or_recover, options.idle_lifetime)
    connections = Connections(pool, options.max_size, options.acquire_timeout)
    try:
        with map_errors(options.variable):
            # Not within the time for a connection: the first start of an embedded server makes its data.
            await server.url()
            has_pooler = await connections.probe(look_for_pooler=options.statement_cache is None)
            if has_pooler:
                pool.renew()
                options = replace(options, statement_cache=False)
                options = replace(options, statement_cache=not await pools_transactions(reach_or_recover))
        yield Database(connections, options)
    finally:
        # `close` would wait until connections in use are returned.
        pool.terminate()
