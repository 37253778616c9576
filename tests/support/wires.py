"""A wire to Postgres that breaks at a statement: a TCP proxy which reads the protocol of both sides."""

import asyncio
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import urlsplit

from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.testing.http import Ticks
from tests.support.poolers import Streams, open_server, read_message

_SSL_REQUEST = 80877103


class Break(Enum):
    """How the wire breaks at a statement."""

    BEFORE = auto()  # the server does not receive it
    AFTER = auto()  # the server has run it, and its answer is lost with the connection
    SILENT = auto()  # the server has run it, and neither its answer nor the end of the connection arrives


@dataclass(eq=False)
class _Link:
    """One connection; `prepared` and `portals` have the SQL of the statements that its client has named."""

    client: Streams
    server: Streams
    prepared: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    portals: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    broken: Break | None = None

    def cut(self) -> None:
        """End the connection on both sides, as a router that forgets it does."""
        for _, writer in (self.client, self.server):
            writer.transport.abort()


@dataclass(eq=False)
class Wire:
    """The wire of a database; `broken` counts the connections that it broke, `refused` those that it did not take.

    `statements` is the SQL of all that was run.
    `delay` are the seconds that every answer of the server takes on its way.
    """

    target: str
    broken: int = 0
    refused: int = 0
    is_down: bool = False
    delay: float = 0.0
    has_broken: asyncio.Event = field(default_factory=asyncio.Event)
    statements: list[str] = field(default_factory=list[str])
    _statement: bytes | None = None
    _how: Break = Break.AFTER
    _times: int = 0
    _links: set["_Link"] = field(default_factory=set["_Link"])

    def break_at(self, statement: str, how: Break, times: int = 1) -> None:
        """Break the connections that next run a statement with this text in it, so many; the others stay."""
        self._statement, self._how, self._times = statement.encode(), how, times

    def go_down(self) -> None:
        """End all connections, and take no new ones."""
        self.is_down = True
        for link in self._links:
            link.cut()

    def come_up(self) -> None:
        """Take connections again."""
        self.is_down = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect a client to the server until either leaves, or the wire breaks."""
        link = None if self.is_down else _Link((reader, writer), await open_server(self.target))
        if link is not None and self.is_down:  # it went down meanwhile
            link.cut()
            link = None
        if link is None:
            self.refused += 1
            writer.transport.abort()
            return
        self._links.add(link)
        try:
            await self._greet(link)
            await first_of(self._requests(link), self._answers(link))
        except* (asyncio.IncompleteReadError, ConnectionError):
            pass  # one of them has left
        finally:
            self._links.discard(link)
            link.cut()

    async def _greet(self, link: _Link) -> None:
        """Pass on the first message, which has no type; TLS is refused."""
        while True:
            head = await link.client[0].readexactly(4)
            body = await link.client[0].readexactly(struct.unpack("!i", head)[0] - 4)
            if struct.unpack("!i", body[:4])[0] != _SSL_REQUEST:
                link.server[1].write(head + body)
                return
            link.client[1].write(b"N")

    async def _requests(self, link: _Link) -> None:
        while True:
            kind, message = await read_message(link.client[0])
            statement = _statement_of(link, kind, message[5:])
            if statement:
                self.statements.append(statement.decode())
            if self._times and self._statement is not None and self._statement in statement:
                self._times -= 1
                self.broken += 1
                self.has_broken.set()
                link.broken = self._how
                if self._how is Break.BEFORE:
                    return
            link.server[1].write(message)
            await link.server[1].drain()

    async def _answers(self, link: _Link) -> None:
        while True:
            kind, message = await read_message(link.server[0])
            if self.delay and kind == b"Z":  # ReadyForQuery: the statement has ended
                await Ticks(self.delay).step()
            if link.broken is None:
                link.client[1].write(message)
                await link.client[1].drain()
            elif link.broken is Break.AFTER and kind == b"Z":  # ReadyForQuery: the statement has ended
                return


def _statement_of(link: _Link, kind: bytes, body: bytes) -> bytes:
    """Return the SQL that a message of a client runs; empty if it runs none."""
    # https://www.postgresql.org/docs/current/protocol-message-formats.html
    match kind, body.split(b"\0", 2):
        case b"Q", [statement, *_]:
            return statement
        case b"P", [name, statement, *_]:
            link.prepared[name] = statement
        case b"B", [portal, name, *_]:
            link.portals[portal] = link.prepared.get(name, b"")
        case b"E", [portal, *_]:
            return link.portals.get(portal, b"")
        case _:
            pass
    return b""


@asynccontextmanager
async def open_wire(target: str) -> AsyncGenerator[tuple[Wire, str]]:
    """Open a wire to a database, and return it with the address of its near end, for the same login."""
    wire = Wire(target)
    listener = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    parts = urlsplit(target)
    login = parts.netloc.rpartition("@")[0]
    port = listener.sockets[0].getsockname()[1]
    try:
        yield wire, f"postgresql://{login}@127.0.0.1:{port}{parts.path}"
    finally:
        listener.close()
