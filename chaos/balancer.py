"""A load balancer without affinity: each request goes to the next replica, on a connection of its own."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from chaos.serving import serving
from chaos.timing import pause

from agentapi_mcp.base.concurrency import first_of

_CONNECTION = re.compile(rb"(?i)\r\n(?:connection|host):[^\r]*")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CONNECT_SECONDS = 2.0
# How long one that repeats requests waits for the beginning of an answer.
_REPEAT_AFTER = 0.3


@dataclass(frozen=True)
class _Request:
    head: bytes
    body: bytes

    def to(self, port: int) -> bytes:
        head = _CONNECTION.sub(b"", self.head)[:-4]
        return head + b"\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port + self.body


@dataclass
class Balancer:
    """Passes requests on; `swallow`, `repeat` and `blind` are its bad habits."""

    replicas: Sequence[int]
    chance: random.Random
    swallow: float = 0.0  # how often an answer is read to its end, and not passed on
    repeat: float = 0.0  # how often a request is sent to the next replica too, whose answer is passed on
    blind: bool = False  # a caller's close is not passed on: the replica goes on answering
    out: set[int] = field(default_factory=set[int])  # which replicas get no new requests
    swallowed: int = 0
    repeated: int = 0
    port: int = 0
    _turn: int = 0

    @property
    def url(self) -> str:
        """The address of Streamable HTTP."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["Balancer"]:
        """Listen until the context ends."""
        async with serving(self._serve) as self.port:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(head)
            request = _Request(head, await reader.readexactly(int(found[1]) if found else 0))
            if self.blind:
                await self._pass(request, writer)
            else:
                await first_of(self._pass(request, writer), _closed(reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _pass(self, request: _Request, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            if self.chance.random() < self.repeat:
                await self._abandon(request)
            await self._exchange(request, writer)

    async def _abandon(self, request: _Request) -> None:
        """Send a request to a replica that is taken for dead, when it has begun to work on it."""
        connected = await self._connect()
        if connected is None:
            return
        self.repeated += 1
        port, _, up_writer = connected
        up_writer.write(request.to(port))
        await up_writer.drain()
        await pause(_REPEAT_AFTER)
        if not self.blind:
            up_writer.close()

    async def _exchange(self, request: _Request, writer: asyncio.StreamWriter) -> None:
        connected = await self._connect()
        if connected is None:
            writer.write(b"HTTP/1.1 503 No Replica\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
            return
        port, up_reader, up_writer = connected
        try:
            up_writer.write(request.to(port))
            await up_writer.drain()
            await self._answer(up_reader, writer)
        finally:
            up_writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.write(b"HTTP/1.1 502 Replica Died\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
            return
        if self.chance.random() < self.swallow:
            self.swallowed += 1
            await reader.read(-1)  # the replica takes it for delivered
            return
        writer.write(_CONNECTION.sub(b"", head)[:-4] + b"\r\nConnection: close\r\n\r\n")
        while data := await reader.read(65536):
            # A blind one reads on whatever becomes of its own caller.
            with suppress(ConnectionError):
                writer.write(data)
                await writer.drain()

    async def _connect(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to the next replica that is there; one that refuses is passed over."""
        pool = [port for port in self.replicas if port not in self.out]
        self._turn += 1
        for step in range(len(pool)):
            port = pool[(self._turn + step) % len(pool)]
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return port, *(await asyncio.open_connection("127.0.0.1", port, limit=2**22))
        return None


async def _closed(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(1024):
            pass
