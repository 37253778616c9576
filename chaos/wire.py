"""A TCP wire between a replica and Postgres that can cut a connection around a commit, be slow, or fall silent."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from chaos.serving import serving
from chaos.timing import pause

from agentapi_mcp.base.concurrency import first_of

# What commits: the end of a transaction, or a statement that is one by itself and accepts or ends a turn.
_COMMIT = re.compile(rb"\s*commit\s*;?\s*", re.IGNORECASE)
_ENGINE = re.compile(rb"\bagentapi\.(?:begin|end)_turn_\d+\s*\(", re.IGNORECASE)


class FrontendReader:
    """Splits what a client of Postgres sends into messages, and knows which of them commits.

    A statement is prepared once and run by its name from then on, so its text has to be remembered.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._started = False
        self._committing = set[bytes]()

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """Return the whole messages so far, each with whether it commits."""
        self._waiting += data
        messages: list[tuple[bytes, bool]] = []
        while message := self._take():
            messages.append((message, self._commits(message)))
        return messages

    def _take(self) -> bytes:
        at = 1 if self._started else 0  # the first message has no letter
        if len(self._waiting) < at + 4:
            return b""
        size = at + int.from_bytes(self._waiting[at : at + 4])
        if len(self._waiting) < size:
            return b""
        message = bytes(self._waiting[:size])
        del self._waiting[:size]
        self._started = True
        return message

    def _commits(self, message: bytes) -> bool:
        kind, body = message[:1], message[5:]
        match kind:
            case b"Q":
                text = body.rstrip(b"\0")
                return _COMMIT.fullmatch(text) is not None or _ENGINE.search(text) is not None
            case b"P":
                name, text, *_ = body.split(b"\0")
                self._committing.discard(name)
                if _COMMIT.fullmatch(text) or _ENGINE.search(text):
                    self._committing.add(name)
            case b"B":
                return body.split(b"\0")[1] in self._committing
            case _:
                pass
        return False


@dataclass
class Wire:
    """What every connection through it does from now on."""

    to_port: int
    chance: random.Random
    cut_before: float = 0.0
    cut_after: float = 0.0
    delay: float = 0.0
    cuts: int = 0
    port: int = 0
    _speaking: asyncio.Event = field(default_factory=asyncio.Event)

    def silence(self, *, silent: bool) -> None:
        """Pass nothing on in either direction, and cut nothing; or pass on again."""
        if silent:
            self._speaking.clear()
        else:
            self._speaking.set()

    def mend(self) -> None:
        """Cut and delay nothing any more."""
        self.cut_before = self.cut_after = self.delay = 0.0

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["Wire"]:
        """Listen until the context ends."""
        self._speaking.set()
        async with serving(self._serve) as self.port:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            writer.transport.abort()
            return
        muted = asyncio.Event()
        try:
            await first_of(self._up(reader, up_writer, muted), self._down(up_reader, writer, muted))
        finally:
            writer.transport.abort()
            up_writer.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, muted: asyncio.Event) -> None:
        messages = FrontendReader()
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._speaking.wait()
                for message, commits in messages.feed(data):
                    if commits and self.chance.random() < self.cut_before:
                        self.cuts += 1
                        return
                    if commits and self.chance.random() < self.cut_after:
                        muted.set()
                    writer.write(message)
                await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, muted: asyncio.Event) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._speaking.wait()
                await pause(self.delay)
                if muted.is_set():  # the server answers when it has committed
                    self.cuts += 1
                    return
                writer.write(data)
                await writer.drain()
