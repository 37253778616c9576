"""A real HTTP server on loopback that a test controls step by step, and that sees its client disconnect."""

import asyncio
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self, cast

from typing_extensions import override

_LARGEST_HEAD = 1 << 20


class ClientGoneError(Exception):
    """The client closed its connection before the answer was complete."""


class ExchangeOutcome(StrEnum):
    """How an exchange ended."""

    DONE = "done"
    CLIENT_GONE = "client_gone"
    CUT = "cut"


class Pace(Protocol):
    """The pace of a slow response."""

    async def step(self) -> None:
        """Wait for the next step."""
        ...


class Steps(Pace):
    """A pace set by the test: each step waits until the test releases it."""

    def __init__(self) -> None:
        self._released = asyncio.Semaphore(0)

    @override
    async def step(self) -> None:
        """Wait until the test releases the step."""
        await self._released.acquire()

    def release(self, steps: int = 1) -> None:
        """Release a number of steps."""
        for _ in range(steps):
            self._released.release()


@dataclass(frozen=True)
class Ticks(Pace):
    """A pace set by a timer."""

    seconds: float

    @override
    async def step(self) -> None:
        """Wait for the next tick."""
        ticked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = asyncio.get_running_loop().call_later(self.seconds, ticked.set_result, None)
        try:
            await ticked
        finally:
            timer.cancel()


@dataclass
class Exchange:
    """One request and its outcome."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes
    gone: asyncio.Event
    outcome: ExchangeOutcome | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> dict[str, object]:
        """The body as a JSON object; empty if it is not one."""
        try:
            value = cast(object, json.loads(self.content))
        except ValueError:
            return {}
        return cast(dict[str, object], value) if isinstance(value, dict) else {}


class Answer:
    """Writes the response of one exchange."""

    def __init__(self, exchange: Exchange, writer: asyncio.StreamWriter, pace: Pace) -> None:
        self._exchange = exchange
        self._writer = writer
        self._pace = pace

    async def json(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        """Send a response with a JSON body."""
        await self.text(status, json.dumps(body), "application/json", headers)

    async def text(
        self, status: int, body: str, content_type: str = "text/html", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole response."""
        content = body.encode()
        lengths = {"content-type": content_type, "content-length": str(len(content))}
        await self._write(_head(status, {**lengths, **(headers or {})}) + content)

    async def open_stream(self, headers: Mapping[str, str] | None = None) -> None:
        """Start an event stream."""
        kinds = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
        await self._write(_head(HTTPStatus.OK, {**kinds, **(headers or {})}))

    async def write_chunk(self, text: str) -> None:
        """Send one chunk of a stream."""
        content = text.encode()
        await self._write(b"%x\r\n%s\r\n" % (len(content), content))

    async def close_stream(self) -> None:
        """End a stream with the last chunk."""
        await self._write(b"0\r\n\r\n")

    async def half(self) -> None:
        """Start a whole response, and abort the connection before its end."""
        await self._write(_head(HTTPStatus.OK, {"content-type": "application/json", "content-length": "99"}) + b"{")
        self.cut()

    def cut(self) -> None:
        """Abort the connection."""
        self._exchange.outcome = ExchangeOutcome.CUT
        self._writer.transport.abort()

    async def step(self) -> None:
        """Wait for the next step of a slow response, or until the client disconnects."""
        await self._unless_gone(self._pace.step())

    async def hang(self) -> None:
        """Send nothing until the client disconnects."""
        await self._exchange.gone.wait()
        raise ClientGoneError

    async def _unless_gone(self, waiting: Awaitable[None]) -> None:
        async def wait() -> None:
            await waiting

        async with asyncio.TaskGroup() as tasks:
            racers = {tasks.create_task(wait()), tasks.create_task(self._until_gone())}
            _, slower = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
            for racer in slower:
                racer.cancel()
        if self._exchange.gone.is_set():
            raise ClientGoneError

    async def _until_gone(self) -> None:
        await self._exchange.gone.wait()

    async def _write(self, content: bytes) -> None:
        if self._exchange.gone.is_set():
            raise ClientGoneError
        self._writer.write(content)
        await self._writer.drain()


class HttpPeer:
    """A server that runs within an `async with`; subclasses implement the responses."""

    def __init__(self, *, port: int = 0, pace: Pace | None = None) -> None:
        self.steps = Steps()
        self.exchanges: list[Exchange] = []
        self._pace = pace or self.steps
        self._port = port
        self._changed = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks = asyncio.TaskGroup()
        self._server: asyncio.Server | None = None
        self._stopped = False

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def origin(self) -> str:
        """The URL of the server, without a path."""
        return f"http://127.0.0.1:{self._port}"

    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        raise NotImplementedError

    async def received(self, number: int = 1, *, path: str = "", content: str = "") -> Exchange:
        """Wait for the request with this number, counted from 1 over those with this end of the path and this content.

        The content is a part of the body.
        """

        def found() -> list[Exchange]:
            return [
                exchange
                for exchange in self.exchanges
                if exchange.path.endswith(path) and content.encode() in exchange.content
            ]

        async with self._changed:
            await self._changed.wait_for(lambda: len(found()) >= number)
        return found()[number - 1]

    async def client_gone(self, number: int = 1, *, path: str = "") -> None:
        """Wait until the client of a request, as `received` finds it, has disconnected, and its response has ended."""
        exchange = await self.received(number, path=path)
        await exchange.gone.wait()
        await exchange.ended.wait()

    async def stop(self) -> None:
        """Stop listening, and abort every connection."""
        self._stopped = True
        if self._server is not None:
            await _accept_no_more(self._server)
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", self._port)
        self._port = cast(int, self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        await self._tasks.__aexit__(kind, error, trace)

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = _Reader()
        return asyncio.StreamReaderProtocol(reader, lambda _, writer: self._connected(reader, writer))

    def _connected(self, reader: "_Reader", writer: asyncio.StreamWriter) -> None:
        if self._stopped:  # the loop accepted the connection earlier, and reports it only now
            writer.transport.abort()
        else:
            self._tasks.create_task(self._converse(reader, writer))

    async def _converse(self, reader: "_Reader", writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ClientGoneError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: "_Reader", writer: asyncio.StreamWriter) -> bool:
        exchange = await _read_request(reader)
        async with self._changed:
            self.exchanges.append(exchange)
            self._changed.notify_all()
        try:
            await self.answer(exchange, Answer(exchange, writer, self._pace))
        except (ClientGoneError, ConnectionError):
            exchange.outcome = exchange.outcome or ExchangeOutcome.CLIENT_GONE
        exchange.outcome = exchange.outcome or ExchangeOutcome.DONE
        exchange.ended.set()
        return exchange.outcome is ExchangeOutcome.DONE


async def _accept_no_more(server: asyncio.Server) -> None:
    """Stop accepting, and wait until accepted connections have their transports."""
    # asyncio leaks a connection that has been accepted, but has no transport yet when the server closes.
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(3):  # the task that accepts, the transport that it makes, and its protocol
        turned: asyncio.Future[None] = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


class _Reader(asyncio.StreamReader):
    """A reader that sets `gone` when the client disconnects, also without a pending read."""

    def __init__(self) -> None:
        super().__init__(limit=_LARGEST_HEAD)
        self.gone = asyncio.Event()

    @override
    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    @override
    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


async def _read_request(reader: _Reader) -> Exchange:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    pairs = (line.split(":", 1) for line in head[1:] if ":" in line)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Exchange(method=method, path=path, headers=headers, content=content, gone=reader.gone)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Overloaded"
    lines = (f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()))
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
