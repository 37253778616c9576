"""Signals between the processes of one database: rows of `agentapi.signals`, and a NOTIFY that there are some.

Any login of a database may LISTEN and NOTIFY, whatever its rights. So a notification is a hint to read the rows, which
no outside role can write: one that is forged or repeated leads to a read that finds nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from datetime import timedelta
from functools import partial
from typing import LiteralString
from uuid import UUID, uuid4

import asyncpg
from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId
from agentapi_mcp.base.json_texts import json_text
from agentapi_mcp.core.signals import Signal, SignalKind, Signals
from agentapi_mcp.stores.postgres.database import Connection, Database, Server, connect
from agentapi_mcp.stores.postgres.faults import LOST
from agentapi_mcp.stores.postgres.jsons import json_object

# The payload lets the sender ignore its own notification. Whoever forges one hides nothing but that.
_TELL: LiteralString = "SELECT agentapi.tell_1($1, $2)"
_BEGIN: LiteralString = """
SELECT value AS channel, pg_snapshot_xmin(pg_current_snapshot())::text AS mark
  FROM agentapi.facts WHERE name = 'signal_channel'
"""
# A row can be committed after one that was written later. So each read begins at the oldest transaction that was open
# at the read before, and what was seen already is left out.
_READ: LiteralString = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS mark, s.id, s.signal
  FROM (SELECT) AS one
  LEFT JOIN agentapi.signals s ON s.sent_in >= $1::text::xid8 AND s.expires_at > now() AND s.sender <> $2
 ORDER BY s.id
"""
_RETRY = timedelta(seconds=2)
_GATHER = timedelta(milliseconds=30)
_READ_EVERY = timedelta(milliseconds=50)  # at most, however many notifications arrive
_MOST_WAITING = 10_000  # while the database is away; what they tell is in the database
_IDS = frozenset({"turn_id", "session_id", "user_id", "org_id"})
_log = logging.getLogger(__name__)


async def tell(connection: Connection, signal: Signal) -> None:
    """Send a signal with the transaction, which must be the program's own; this process hears it like the others."""
    await connection.execute(_TELL, uuid4(), [_to_json(signal)])


class PostgresSignals(Signals):
    """A listening connection that reconnects, and a sender; signals sent meanwhile are lost.

    Signals go out after the commit of what they tell: a NOTIFY inside a transaction takes a lock of the whole cluster
    until it is on disk, so that commits wait for each other. They are gathered for a few milliseconds, and sent by one
    statement.
    """

    def __init__(self, server: Server, database: Database, clock: Clock, variable: str | None = None) -> None:
        """`server` is listened to, and may be reached past a pooler by the address in `variable`."""
        self._server = server
        self._variable = variable
        self._database = database
        self._clock = clock
        self._listeners: dict[object, Callable[[Signal], None]] = {}
        self._sender = uuid4()
        self._outgoing: deque[str] = deque(maxlen=_MOST_WAITING)
        self._has_outgoing = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._has_incoming = asyncio.Event()
        self._mark = ""
        self._seen: frozenset[int] = frozenset()

    @override
    def subscribe(self, listener: Callable[[Signal], None]) -> Callable[[], None]:
        token = object()
        self._listeners[token] = listener

        def unsubscribe() -> None:
            self._listeners.pop(token, None)

        return unsubscribe

    @override
    def send(self, signal: Signal, *, hurry: bool = False) -> None:
        self._deliver(signal)  # here at once, without the detour through the database
        self._outgoing.append(_to_json(signal))
        self._has_outgoing.set()
        if hurry:
            self._is_urgent.set()

    async def run_sender(self) -> None:
        """Send signals forever."""
        # Two tasks for all: to wait for the first of both would start two for each sending.
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_gathered())
            group.create_task(self._send_urgent())

    async def _send_gathered(self) -> None:
        while True:
            await self._has_outgoing.wait()
            await self._clock.sleep(_GATHER)
            await self._flush_or_lose()

    async def _send_urgent(self) -> None:
        while True:
            await self._is_urgent.wait()
            await self._flush_or_lose()

    async def _flush_or_lose(self) -> None:
        try:
            await self.flush()
        except Exception as exc:  # noqa: BLE001  # the outermost point; receivers also read the database
            _log_lost(exc)

    async def flush(self) -> None:
        """Send what has been gathered."""
        self._has_outgoing.clear()
        self._is_urgent.clear()
        outgoing = list(self._outgoing)
        self._outgoing.clear()
        if outgoing:
            await self._database.call_as_system(
                "tell the other processes what has changed", _TELL, self._sender, outgoing
            )

    async def check_address(self) -> None:
        """Connect once to where it listens; only an address that leads nowhere at any time is an error.

        Raises:
            ConfigurationError: the address is none.
        """
        with suppress(*LOST, asyncpg.PostgresError):
            connection = await connect(await self._server.url(), self._variable, timeout=10, statement_cache_size=0)
            connection.terminate()

    async def run(self, listening: Callable[[], None]) -> None:
        """Listen forever; `listening` is called after every (re)connect."""
        while True:
            try:
                async with self._connected() as gone:
                    listening()
                    await self._read_until(gone)
            except Exception as exc:  # noqa: BLE001  # the outermost point: nothing else may end with the listening
                _log_lost(exc)
            # Listeners also read the database, so a signal lost meanwhile only delays them.
            await self._clock.sleep(_RETRY)

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[asyncio.Event]:
        gone = asyncio.Event()
        async with self._database.as_system("where processes tell each other what has changed") as own:
            begin = await own.fetchrow(_BEGIN)
        if begin is None:
            raise AssertionError
        self._mark, self._seen = begin["mark"], frozenset()
        # Not from the pool, whose connections serve one transaction at a time: LISTEN needs one for itself.
        connection = await connect(await self._server.url(), self._variable, timeout=10, statement_cache_size=0)
        # A server that another has replaced may be cut off, and then its connection stands, and tells nothing.
        stop = self._database.on_renewal(partial(self._lose, gone, connection))
        try:
            connection.add_termination_listener(partial(self._lose, gone))
            await connection.add_listener(begin["channel"], self._receive)
            self._has_incoming.set()  # for what was sent since the mark
            yield gone
        finally:
            stop()
            connection.terminate()

    def _lose(self, gone: asyncio.Event, _connection: object) -> None:
        gone.set()
        self._has_incoming.set()  # one event wakes the reader, whatever has come

    def _receive(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if payload != str(self._sender):  # what it sent itself was delivered then
            self._has_incoming.set()

    async def _read_until(self, gone: asyncio.Event) -> None:
        """Read new signals after each notification, those of a moment together."""
        while True:
            await self._has_incoming.wait()
            if gone.is_set():
                return
            self._has_incoming.clear()
            await self._read()
            await self._clock.sleep(_READ_EVERY)

    async def _read(self) -> None:
        async with self._database.as_system("read what other processes have told") as connection:
            rows = await connection.fetch(_READ, self._mark, self._sender)
        told = {row["id"]: row["signal"] for row in rows if row["id"] is not None}
        new = [text for id_, text in told.items() if id_ not in self._seen]
        self._mark, self._seen = rows[0]["mark"], frozenset(told)
        for signal in map(_from_json, new):
            if signal is not None:
                self._deliver(signal)

    def _deliver(self, signal: Signal) -> None:
        # A copy, since a listener may unsubscribe while it is called.
        for listener in tuple(self._listeners.values()):
            listener(signal)


_FIELDS = tuple(field.name for field in fields(Signal))


def _to_json(signal: Signal) -> str:
    values = ((name, getattr(signal, name)) for name in _FIELDS)  # `asdict` would copy each
    return json_text({name: value for name, value in values if value is not None} | {"kind": str(signal.kind)})


def _from_json(text: str) -> Signal | None:
    """Read a signal; None for one of an unknown kind, which a newer program has sent."""
    fields = {name: str(value) for name, value in json_object(text).items()}
    ids = {name: UUID(value) for name, value in fields.items() if name in _IDS}
    with suppress(ValueError):
        return Signal(
            kind=SignalKind(fields["kind"]),
            turn_id=TurnId(ids["turn_id"]) if "turn_id" in ids else None,
            session_id=SessionId(ids["session_id"]) if "session_id" in ids else None,
            user_id=UserId(ids["user_id"]) if "user_id" in ids else None,
            org_id=OrgId(ids["org_id"]) if "org_id" in ids else None,
            mcp_session=fields.get("mcp_session"),
            request_id=fields.get("request_id"),
            departure=fields.get("departure"),
        )
    return None


def _log_lost(error: Exception) -> None:
    expected = isinstance(error, (*LOST, asyncpg.PostgresError, AgentApiError))
    _log.info("signals_lost", exc_info=None if expected else error, extra={"error": type(error).__name__})
