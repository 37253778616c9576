"""A server on loopback that sends the bytes that a test says, whether they are HTTP or not."""

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

_LARGEST_HEAD = 1 << 20


@dataclass(eq=False)
class Line:
    """A connection to the server."""

    peer: "Peer"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hear(self) -> bytes:
        """Read a request, and keep it."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        body = await self.reader.readexactly(int(size[1])) if size else b""
        self.peer.heard.append(head + body)
        return head + body

    async def say(self, *parts: bytes) -> None:
        """Send bytes."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def end(self) -> None:
        """Wait until the client leaves."""
        with suppress(ConnectionError):
            await self.reader.read()
        self.peer.left.set()

    def reset(self) -> None:
        """End the connection by a reset, not by its end."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


Script = Callable[[Line], Awaitable[None]]


@dataclass(eq=False)
class Peer:
    """The server; `heard` are the requests, `lines` the connections, and `go_on` is the test's word to a script."""

    port: int = 0
    heard: list[bytes] = field(default_factory=list[bytes])
    lines: list[Line] = field(default_factory=list[Line])
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def origin(self) -> str:
        """The URL of the server, without TLS."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def secure(self) -> str:
        """The URL of the server, with TLS."""
        return f"https://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncGenerator[Peer]:
    """Run the script on each connection, and close the connection after it."""
    peer = Peer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(peer, reader, writer)
        peer.lines.append(line)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(line)
        writer.close()

    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(
            lambda reader, writer: tasks.append(group.create_task(serve(reader, writer))),
            *(host, 0),
            ssl=tls,
            limit=_LARGEST_HEAD,
        )
        peer.port = server.sockets[0].getsockname()[1]
        try:
            yield peer
        finally:
            server.close()
            for line in peer.lines:
                line.writer.transport.abort()
            for task in tasks:
                task.cancel()


def says(*parts: bytes) -> Script:
    """Answer each request of a connection with the same bytes, and close it when the client leaves."""

    async def script(line: Line) -> None:
        while not line.reader.at_eof():
            await line.hear()
            await line.say(*parts)

    return script


def says_last(*parts: bytes) -> Script:
    """Answer one request, and close the connection."""

    async def script(line: Line) -> None:
        await line.hear()
        await line.say(*parts)

    return script


def chunk(content: bytes) -> bytes:
    """Return a chunk of a body."""
    return b"%x\r\n%s\r\n" % (len(content), content)


def relaying(port: int) -> Callable[[Line], Awaitable[None]]:
    """Return what a proxy does that is told to CONNECT: it copies all bytes to that port, and back."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def script(line: Line) -> None:
        await line.hear()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await line.say(b"HTTP/1.1 200 OK\r\n\r\n")
        async with asyncio.TaskGroup() as group:
            group.create_task(copy(line.reader, writer))
            group.create_task(copy(reader, line.writer))

    return script
