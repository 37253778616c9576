"""The resident server: one process that serves all bridges of a home with the same settings (docs/design/resident.md).

Started by `starting.py` with a socket that listens and a lock that is taken, and never by hand.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from agentapi_mcp.app.home import home_of
from agentapi_mcp.app.mcp_options import mcp_options
from agentapi_mcp.app.startup import App, open_app
from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.base.concurrency import first_of, guarded
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.preparation import leave_out_what_stays
from agentapi_mcp.edges.mcp.server.server import EdgeServer, create_server
from agentapi_mcp.environ import environment
from agentapi_mcp.presentation.values import moment
from agentapi_mcp.resident.connections import BridgeConnection, count_requests
from agentapi_mcp.resident.place import Place, siblings, sweep, trim
from agentapi_mcp.resident.protocol import NUMBER, Hello, ok
from agentapi_mcp.settings import BARE_NAMES, VERSION, Settings, for_stdio, load_settings, with_toolsets
from agentapi_mcp.telemetry import configure_logs

_log = logging.getLogger(__name__)
_FIRST_LINE_SECONDS = 10
_LOOK_EVERY = timedelta(seconds=2)
# Beside another server of the same home, one that nobody uses is more likely a leftover.
_SIBLINGS_LINGER = timedelta(seconds=10)
_ACCEPT_AGAIN = timedelta(milliseconds=200)
_STDERR = 2


class Resident:
    """The process that serves bridges, from its first connection until it leaves."""

    def __init__(self, app: App, place: Place, listener: socket.socket, lock: int, clock: Clock) -> None:
        self._app = app
        self._place = place
        self._listener = listener
        self._lock = lock
        self._clock = clock
        self._inode = place.inode()
        self._since = clock.now()
        self._idle_since = self._since
        self._server = _server(app)
        self._connections: set[BridgeConnection] = set()
        self._nobody, self._somebody = asyncio.Event(), asyncio.Event()
        self._nobody.set()
        self._linger = timedelta(seconds=app.settings.resident_linger_seconds)
        self.stopped = asyncio.Event()

    async def accept(self, group: asyncio.TaskGroup) -> None:
        """Serve whoever connects, in tasks of the group, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as exc:  # no descriptor is left: those who wait are served when another one is closed
                _log.warning("connection_not_accepted", extra={"error": exc.strerror})
                await self._clock.sleep(_ACCEPT_AGAIN)
            else:
                group.create_task(guarded(self._welcome(connection)))

    async def until_over(self) -> None:
        """Wait until the server has a reason to leave."""
        await first_of(self.stopped.wait(), self._until_idle(), self._until_gone())

    def leave(self) -> None:
        """Let the next bridge start another server, and read no further line of those there are."""
        for connection in self._connections:
            connection.leave()
        with suppress(OSError):  # it ends all the same, though nobody sees it
            self._place.note_ending(json.dumps(self._told()).encode())
        # While we have the lock, since after that the socket may be another server's.
        if self._owns_socket():
            self._place.remove_socket()
        self._listener.close()
        os.close(self._lock)

    async def say_bye(self) -> None:
        """Wait until those who are served have their answers, and take leave of them."""
        async with asyncio.TaskGroup() as group:
            for connection in tuple(self._connections):
                group.create_task(guarded(connection.say_bye()))

    # --- connections

    async def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)  # noqa: FBT003  # the name of the method says it
        if not _is_ours(connection):
            connection.close()
            return
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        try:
            with suppress(ConnectionError, TimeoutError, ValueError):
                async with asyncio.timeout(_FIRST_LINE_SECONDS):
                    line = await reader.readline()
                await self._serve(line, reader, writer)
        finally:
            writer.close()

    async def _serve(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = Hello.read(first)
        if hello is None:
            await self._control(first, writer)
            return
        if self.stopped.is_set():
            return  # without a word: so the bridge knows that nothing of it was read
        writer.write(ok(VERSION, os.getpid()))
        if hello.protocol != NUMBER:
            return
        connection = BridgeConnection(reader, writer, hello, self._clock.now(), self._app.services_provider.reload)
        self._connections.add(connection)
        self._note_presence()
        try:
            await connection.serve(self._server)
        finally:
            self._connections.discard(connection)
            self._note_presence()

    def _note_presence(self) -> None:
        present, absent = (self._somebody, self._nobody) if self._connections else (self._nobody, self._somebody)
        present.set()
        absent.clear()
        self._idle_since = self._clock.now()

    async def _control(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        words = line.split()
        if words not in ([b"status"], [b"stop"]):
            return
        writer.write(json.dumps(self._told()).encode() + b"\n")
        await writer.drain()
        if words == [b"stop"]:
            self.stopped.set()
            # Its end tells the caller that this process has ended.
            await asyncio.Event().wait()

    def _told(self) -> dict[str, object]:
        clients = sorted(self._connections, key=lambda each: each.since)
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "since": moment(self._since),
            "idle_since": None if clients or self._running() else moment(self._idle_since),
            "linger_seconds": self._linger.total_seconds(),
            "grace_seconds": self._app.settings.shutdown_grace_seconds,
            "home": str(home_of(self._app.settings, environment())),
            "running_turns": self._running(),
            "clients": [connection.told() for connection in clients],
        }

    def _running(self) -> int:
        services = self._app.services_provider.find()
        return 0 if services is None else services.turns.count_running()

    # --- reasons to leave

    async def _until_idle(self) -> None:
        """Wait until nobody has been connected, and no turn has run, for the linger time."""
        while True:
            await self._nobody.wait()
            services = self._app.services_provider.find()
            if services is not None:
                await services.turns.until_idle()
            self._idle_since = self._clock.now()
            linger = min(self._linger, _SIBLINGS_LINGER) if any(siblings(self._place)) else self._linger
            await first_of(self._somebody.wait(), self._clock.sleep(linger))
            if self._nobody.is_set() and not self._running():
                return

    async def _until_gone(self) -> None:
        """Wait until the socket is not ours any more, or the program has been removed; meanwhile keep the log small."""
        while self._owns_socket() and self._place.has_program():
            trim(_STDERR)
            await self._clock.sleep(_LOOK_EVERY)
        _log.warning("resident_gone", extra={"socket": self._place.socket})

    def _owns_socket(self) -> bool:
        """Whether a bridge that connects to the path reaches us: neither it nor the home was removed or replaced."""
        return self._inode is not None and self._place.inode() == self._inode


def _server(app: App) -> EdgeServer:
    server = create_server(app.services_provider, mcp_options(app.settings))
    server.middleware.append(count_requests)
    return server


def _is_ours(connection: socket.socket) -> bool:
    """Whether the other end belongs to this account; the directory keeps others out, and this stands behind it."""
    if not hasattr(socket, "SO_PEERCRED"):  # macOS
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid == os.geteuid()


def main(words: Sequence[str]) -> None:
    """Serve on an inherited socket, with an inherited lock, until there is a reason to leave."""
    listener, lock, base, *toolsets = words
    for fd in (listener, lock):  # no program that we start may keep them
        os.set_inheritable(int(fd), False)  # noqa: FBT003  # the name of the function says it
    try:
        settings, _ = for_stdio(with_toolsets(load_settings(BARE_NAMES), next(iter(toolsets), None)), environment())
    except ConfigurationError as exc:
        sys.exit(f"agentapi-mcp: {exc}")  # the bridge reads it in the log
    configure_logs(settings.log_level)
    place = Place(*os.path.split(base))
    asyncio.run(_serve_and_leave(settings, place, socket.socket(fileno=int(listener)), int(lock)))


async def _serve_and_leave(settings: Settings, place: Place, listener: socket.socket, lock: int) -> None:
    listener.setblocking(False)  # noqa: FBT003  # the name of the method says it
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        async with open_app(settings, environment()) as app:
            resident = Resident(app, place, listener, lock, SystemClock())
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, resident.stopped.set)
            loop.add_signal_handler(signal.SIGHUP, app.services_provider.reload)
            accepting = group.create_task(resident.accept(group))
            sweep(place)
            leave_out_what_stays()
            await resident.until_over()
            resident.stopped.set()
            accepting.cancel()
            resident.leave()
        # The turns have had their grace, and their callers have been answered.
        await resident.say_bye()
        sys.stderr.flush()
        # Connections are served as long as there are any, and a normal exit would wait for them.
        os._exit(0)
