"""A connection pooler in transaction mode, as PgBouncer and Supabase's have: each transaction takes what is free."""

import asyncio
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

_SSL_REQUEST = 80877103
_PROTOCOL = 196608
_IDLE = b"I"
# BackendKeyData: what a client cancels its statements by is the pooler's to give, a process id of nobody with it.
_OWN_KEY = b"K" + struct.pack("!iii", 12, 0x7FFFFFFF, 0)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Pooler:
    """A pooler for one login of one database; `transactions` counts them for each connection to the server."""

    target: str
    greeting: bytes = b""
    free: "asyncio.Queue[int]" = field(default_factory=asyncio.Queue[int])
    servers: list[Streams] = field(default_factory=list[Streams])
    transactions: list[int] = field(default_factory=list[int])

    async def connect(self) -> None:
        """Make one more connection to the server, which must ask for no password."""
        parts, (reader, writer) = urlsplit(self.target), await open_server(self.target)
        words = ("user", parts.username or "", "database", parts.path[1:], "")
        body = struct.pack("!i", _PROTOCOL) + b"".join(word.encode() + b"\0" for word in words)
        writer.write(struct.pack("!i", len(body) + 4) + body)
        self.greeting = b""
        kind = b""
        while kind != b"Z":
            kind, message = await read_message(reader)
            assert not (kind == b"R" and message[5:9] != b"\0\0\0\0"), "the server wants a password"
            self.greeting += _OWN_KEY if kind == b"K" else message
        self.servers.append((reader, writer))
        self.transactions.append(0)
        self.free.put_nowait(len(self.servers) - 1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Greet a client, and pass its transactions on, each to the connection that has been free for longest."""
        try:
            while True:
                (length,) = struct.unpack("!i", await reader.readexactly(4))
                body = await reader.readexactly(length - 4)
                if struct.unpack("!i", body[:4])[0] != _SSL_REQUEST:
                    break
                writer.write(b"N")
            writer.write(self.greeting)
            while True:
                kind, message = await read_message(reader)
                if kind == b"X":
                    break
                await self._transact(message, reader, writer)
        except* asyncio.IncompleteReadError:
            pass  # the client is gone; a connection whose transaction it left open is given to nobody else
        finally:
            writer.close()

    async def _transact(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        index = await self.free.get()
        from_server, to_server = self.servers[index]
        to_server.write(first)

        async def pass_on() -> None:
            while True:
                _, message = await read_message(reader)
                to_server.write(message)

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(pass_on())
            kind, message = b"", b""
            while (kind, message[5:]) != (b"Z", _IDLE):
                kind, message = await read_message(from_server)
                writer.write(message)
            asking.cancel()
        self.transactions[index] += 1
        self.free.put_nowait(index)


@asynccontextmanager
async def open_pooler(target: str, *, connections: int = 2) -> AsyncGenerator[tuple[Pooler, str]]:
    """Open a pooler in front of a database, and give its address for the same login."""
    pooler = Pooler(target)
    for _ in range(connections):
        await pooler.connect()
    listener = await asyncio.start_server(pooler.serve, "127.0.0.1", 0)
    parts = urlsplit(target)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield pooler, f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
    finally:
        listener.close()
        for _, writer in pooler.servers:
            writer.close()


async def open_server(target: str) -> Streams:
    """Connect to the server of an address, through its directory of sockets where the address names one."""
    parts = urlsplit(target)
    place = parse_qs(parts.query).get("host", [""])[0]
    if place:
        return await asyncio.open_unix_connection(f"{place}/.s.PGSQL.5432")
    return await asyncio.open_connection(parts.hostname, parts.port or 5432)


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the type of the next message, and the whole of it."""
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
