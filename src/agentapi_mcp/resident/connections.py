"""A client's connection to the resident server: its lines through the bridge, and what the bridge says of itself."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from typing import cast

from anyio import AsyncFile
from mcp.server.context import CallNext, HandlerResult

from agentapi_mcp.base.long_lines import LineBound
from agentapi_mcp.edges.mcp.callers import Context, client_of
from agentapi_mcp.edges.mcp.cancellations import ClientConnection
from agentapi_mcp.edges.mcp.deliveries import response_id
from agentapi_mcp.edges.mcp.server.server import EdgeServer
from agentapi_mcp.edges.mcp.transports.stdio import serve_stdio
from agentapi_mcp.presentation.values import moment
from agentapi_mcp.resident.protocol import MARK, RELOAD, SYNCED, Hello, bye, sync

_CHUNK = 1 << 16
_MOST_WAITING = 64
# Seconds for what is written when the client has ended, and for what its last answers take to reach it.
_LAST_WORDS = 5
_LAST_ANSWERS = 2
# A request that has no answer for as long as its client listens.
_LISTEN = "subscriptions/listen"

current = ContextVar["BridgeConnection | None"]("bridge_connection", default=None)


class BridgeConnection:
    """One client of the resident server; it takes the place of the process's stdin and stdout."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        hello: Hello,
        since: datetime,
        reload: Callable[[], None],
    ) -> None:
        self.hello = hello
        self._reload = reload
        self.since = since
        self.name: str | None = None
        self._reader = reader
        self._writer = writer
        self._client = ClientConnection(self._announce)
        self._lines = asyncio.Queue[bytes | None](_MOST_WAITING)
        self._read = 0
        self._open = set[object]()
        self._is_leaving = False
        self._arrivals: dict[int, Callable[[], None]] = {}
        self._asked = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def serve(self, server: EdgeServer) -> None:
        """Serve the client until it is gone; its turns run on."""
        current.set(self)  # inherited by the tasks that serve its requests
        pipe = cast("AsyncFile[str]", self)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read_lines())
            serving = group.create_task(serve_stdio(server, pipe, pipe, client=self._client))
            ended = group.create_task(_wait_for(self._client.ended))
            await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                # A bridge that reads no more, but does not end, must not be served for ever.
                await asyncio.wait({serving}, timeout=_LAST_WORDS)
            for task in (reading, serving, ended):
                task.cancel()

    # --- what the server reads and writes, as it would stdin and stdout

    async def readline(self) -> str:
        """Return the next line of the client, empty at its end; none while the server leaves."""
        line = await self._lines.get()
        if line is None:
            return ""
        if self._is_leaving:  # the bridge hears that it was not read, and gives it to the next server
            await asyncio.Event().wait()
        self._read += 1
        return line.decode("utf-8", "replace")

    async def write(self, text: str, /) -> None:
        """Write a line."""
        self._writer.write(text.encode())
        if self._open:
            self._answered(response_id(text))

    async def flush(self) -> None:
        """Wait while the bridge does not read."""
        with suppress(ConnectionError):  # the end of what it sends tells that it is gone
            await self._writer.drain()

    # --- the end

    def leave(self) -> None:
        """Take no further line from the client."""
        self._is_leaving = True

    async def say_bye(self) -> None:
        """Wait for the answers that are on their way, and tell the bridge how many lines were read."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ANSWERS):
                await self._quiet.wait()
        self._writer.write(bye(self._read))
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_LAST_ANSWERS):
                await self._writer.drain()

    # --- what the bridge says

    async def _read_lines(self) -> None:
        parts: list[bytes] = []
        bound = LineBound()
        with suppress(ConnectionError):
            while chunk := await self._reader.read(_CHUNK):
                *lines, rest = bound.passed(chunk).split(b"\n")
                for line in lines:
                    await self._take(b"".join((*parts, line)))
                    parts = []
                parts.append(rest)
        await self._lines.put(None)

    async def _take(self, line: bytes) -> None:
        if not line.startswith(MARK):
            await self._lines.put(line + b"\n")
        elif line.startswith(SYNCED):
            number = int(line.removeprefix(SYNCED))
            for each in [each for each in self._arrivals if each <= number]:
                self._arrivals.pop(each)()
            self._note_quiet()
        elif line == RELOAD:
            self._reload()

    def _announce(self, note: Callable[[], None]) -> None:
        """Call a function when the bridge has handed to its client the line that is written next."""
        self._asked += 1
        self._arrivals[self._asked] = note
        self._quiet.clear()
        self._writer.write(sync(self._asked))

    # --- what the server does for it

    async def request(self, context: Context, call_next: CallNext) -> HandlerResult:
        """Handle one of its messages, and count it while it has no answer."""
        self.name = self.name or client_of(context)
        if context.request_id is not None and context.method != _LISTEN:
            self._open.add(context.request_id)
            self._quiet.clear()
        try:
            return await call_next(context)
        except asyncio.CancelledError:  # it gets no answer
            self._answered(context.request_id)
            raise

    def _answered(self, request_id: object) -> None:
        self._open.discard(request_id)
        self._note_quiet()

    def _note_quiet(self) -> None:
        if not self._open and not self._arrivals:
            self._quiet.set()

    def told(self) -> dict[str, object]:
        """Return what `status` tells of it."""
        return {
            "name": self.name,
            "pid": self.hello.pid,
            "cwd": self.hello.cwd,
            "since": moment(self.since),
            "open_requests": len(self._open),
        }


async def count_requests(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Middleware: let the connection of a message know of it."""
    connection = current.get()
    return await (call_next(ctx) if connection is None else connection.request(ctx, call_next))


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()
