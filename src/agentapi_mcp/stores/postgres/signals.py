"""Notifications between the processes of one database, by LISTEN and NOTIFY."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId
from agentapi_mcp.core.signals import Signal, SignalKind, Signals
from agentapi_mcp.stores.postgres.database import Database, Server, connect
from agentapi_mcp.stores.postgres.faults import LOST

CHANNEL = "agentapi"
_RETRY = timedelta(seconds=2)
_GATHER = timedelta(milliseconds=30)
_MOST_WAITING = 10_000  # while the database is away; what they tell is in the database
_log = logging.getLogger(__name__)


def signal_json(signal: Signal, sender: str | None = None) -> str:
    """Serialize a signal for NOTIFY, whose payload is limited to 8,000 bytes."""
    fields = {name: str(value) for name, value in asdict(signal).items() if value is not None}
    return json.dumps(fields | {"kind": signal.kind} | ({} if sender is None else {"sender": sender}))


class PostgresSignals(Signals):
    """A listening connection that reconnects, and a sender; notifications sent meanwhile are lost.

    Signals go out after the commit of what they tell: a NOTIFY inside a transaction takes a lock of the whole cluster
    until it is on disk, so that commits wait for each other. They are gathered for a few milliseconds, and sent by one
    statement.
    """

    def __init__(self, server: Server, database: Database, clock: Clock) -> None:
        self._server = server
        self._database = database
        self._clock = clock
        self._listeners: dict[object, Callable[[Signal], None]] = {}
        self._sender = uuid4().hex
        self._outgoing: deque[str] = deque(maxlen=_MOST_WAITING)
        self._has_outgoing = asyncio.Event()
        self._is_urgent = asyncio.Event()

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
        self._outgoing.append(signal_json(signal, self._sender))
        self._has_outgoing.set()
        if hurry:
            self._is_urgent.set()

    async def run_sender(self) -> None:
        """Send signals forever."""
        while True:
            await self._has_outgoing.wait()
            await first_of(self._clock.sleep(_GATHER), self._is_urgent.wait())
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
            async with self._database.as_system("tell the other processes what has changed") as connection:
                await connection.execute(
                    "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload", CHANNEL, outgoing
                )

    async def run(self, listening: Callable[[], None]) -> None:
        """Listen forever; `listening` is called after every (re)connect."""
        while True:
            try:
                async with self._connected() as gone:
                    listening()
                    await gone.wait()
            except Exception as exc:  # noqa: BLE001  # the outermost point: nothing else may end with the listening
                _log_lost(exc)
            # Listeners also read the database, so a notification lost meanwhile only delays them.
            await self._clock.sleep(_RETRY)

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[asyncio.Event]:
        gone = asyncio.Event()
        # Not from the pool, whose connections serve one transaction at a time: LISTEN needs one for itself.
        connection = await connect(await self._server.url(), timeout=10, statement_cache_size=0)
        try:
            connection.add_termination_listener(lambda _: gone.set())
            await connection.add_listener(CHANNEL, self._receive)
            yield gone
        finally:
            connection.terminate()

    def _receive(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        # NOTIFY needs no privilege, and a newer program sends unknown kinds: ignore what cannot be parsed.
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            fields = json.loads(str(payload))
            if fields.get("sender") == self._sender:  # delivered when it was sent
                return
            signal = Signal(
                kind=SignalKind(fields["kind"]),
                turn_id=TurnId(UUID(fields["turn_id"])) if "turn_id" in fields else None,
                session_id=SessionId(UUID(fields["session_id"])) if "session_id" in fields else None,
                user_id=UserId(UUID(fields["user_id"])) if "user_id" in fields else None,
                org_id=OrgId(UUID(fields["org_id"])) if "org_id" in fields else None,
                mcp_session=fields.get("mcp_session"),
                request_id=fields.get("request_id"),
                reason=fields.get("reason"),
            )
            self._deliver(signal)

    def _deliver(self, signal: Signal) -> None:
        # A copy, since a listener may unsubscribe while it is called.
        for listener in tuple(self._listeners.values()):
            listener(signal)


def _log_lost(error: Exception) -> None:
    expected = isinstance(error, (*LOST, asyncpg.PostgresError, AgentApiError))
    _log.info("signals_lost", exc_info=None if expected else error, extra={"error": type(error).__name__})
