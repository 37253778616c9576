"""Notifications between the processes of one database, by LISTEN and NOTIFY."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from uuid import UUID

import asyncpg
from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId
from agentapi_mcp.core.signals import Signal, SignalKind, Signals
from agentapi_mcp.stores.postgres.database import Server, connect

CHANNEL = "agentapi"
_RETRY = timedelta(seconds=2)
_log = logging.getLogger(__name__)


def signal_json(signal: Signal) -> str:
    """Serialize a signal for NOTIFY, whose payload is limited to 8,000 bytes."""
    fields = {name: str(value) for name, value in asdict(signal).items() if value is not None}
    return json.dumps(fields | {"kind": signal.kind})


class PostgresSignals(Signals):
    """A listening connection that reconnects; notifications sent meanwhile are lost."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._listeners: dict[object, Callable[[Signal], None]] = {}

    @override
    def subscribe(self, listener: Callable[[Signal], None]) -> Callable[[], None]:
        token = object()
        self._listeners[token] = listener

        def unsubscribe() -> None:
            self._listeners.pop(token, None)

        return unsubscribe

    async def run(self, listening: Callable[[], None]) -> None:
        """Listen forever; `listening` is called after every (re)connect."""
        while True:
            try:
                async with self._connected() as gone:
                    listening()
                    await gone.wait()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
                _log.info("signals_lost", extra={"error": type(exc).__name__})
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
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            fields = json.loads(str(payload))
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
            # A copy, since a listener may unsubscribe while it is called.
            for listener in tuple(self._listeners.values()):
                listener(signal)
