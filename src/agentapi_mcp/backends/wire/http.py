"""The process's shared HTTP client, with total and idle deadlines and mapped exceptions.

It does not follow redirects or store cookies, limits the size of replies, and sends again only what provably did not
arrive.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentapi_mcp.backends.wire.bodies import Body, Outgoing
from agentapi_mcp.backends.wire.decoding import decoder_of
from agentapi_mcp.base.concurrency import yield_in_line, yield_to_others
from agentapi_mcp.base.deadlines import Deadline, done_within
from agentapi_mcp.base.errors import BackendError, BackendFault

LARGEST_REPLY = 32 * 1024 * 1024  # bytes of a reply, streamed or not
LARGEST_ERROR = 64 * 1024  # bytes read of an error reply
_PIECE = 4 * 1024  # bytes that are handed on at once: some twenty events
_ERROR_WITHIN = 3.0  # seconds to wait for the body of an error
LONGEST_TAIL = 1024 * 1024  # bytes read of a reply after the end of the answer is known
_DRAIN = 0.2  # seconds to wait for the end of a completed stream, so that its connection can be reused
_MOST_DRAINED = 64 * 1024  # bytes of it, which are then read at once

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Time limits for the connection, for the next byte, and for the whole exchange."""

    connect: timedelta
    idle: timedelta
    total: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request; with `waits_for_all` the first byte has the total deadline instead of the idle one.

    `ca_file` names a file of the authorities that are trusted instead of those of the machine.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    deadlines: Deadlines
    content: Body | None = None
    waits_for_all: bool = False
    ca_file: str | None = None


class Response(Protocol):
    """A reply as it comes over a connection."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def fields(self) -> Mapping[str, str]:
        """The headers, with case-insensitive names."""
        ...

    async def read_some(self) -> bytes:
        """Return what has come, or comes next, of the body; nothing at its end."""
        ...

    def close(self) -> None:
        """Leave the provider, unless all was received."""
        ...


class Connections(Protocol):
    """What sends requests: by aiohttp, which is imported with the first of them."""

    async def send(self, outgoing: Outgoing) -> Response:
        """Send a request, and return the head of its reply."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


_TRACES = TraceContextTextMapPropagator()
_OURS = {"accept": "*/*", "accept-encoding": "gzip, deflate", "connection": "keep-alive", "user-agent": "agentapi-mcp"}


class HttpClient:
    """Sends requests over pooled connections; opened by the first request, closed by its owner."""

    def __init__(self) -> None:
        self._connections: Connections | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    @asynccontextmanager
    async def exchange(self, request: HttpRequest) -> AsyncGenerator["Reply"]:
        """Send a request and yield its reply of any status; an unread body closes the connection on exit.

        Raises:
            BackendError: there was no reply, or a deadline passed.
        """
        with closing(_Timer(request.deadlines)) as timer:
            response = await timer.step(self._send(request), idle=not request.waits_for_all)
            try:
                yield Reply(response, timer)
            finally:
                response.close()

    async def _send(self, request: HttpRequest) -> Response:
        connections = self._connections
        if connections is None:
            kind = await asyncio.to_thread(_connections)
            connections = self._connections = self._connections or kind()  # another request may have been faster
        outgoing = Outgoing(
            method=request.method,
            url=request.url,
            headers={**_OURS, **_with_trace(request.headers)},
            content=request.content,
            connect=request.deadlines.connect.total_seconds(),
            ca_file=request.ca_file,
        )
        return await connections.send(outgoing)


def _connections() -> Callable[[], Connections]:
    from agentapi_mcp.backends.wire.connections import Connections  # noqa: PLC0415  # 0.1 s

    return Connections


class Reply:
    """A reply with status and headers, whose body can be read once."""

    def __init__(self, response: Response, timer: "_Timer") -> None:
        self._response = response
        self._timer = timer
        self._headers = response.fields
        self._decode = decoder_of(self._headers.get("content-encoding", ""))
        self._pieces: Iterator[bytes] = iter(())
        self._chunk, self._handed_on = b"", 0
        self._read, self._most = 0, LARGEST_REPLY

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with case-insensitive names."""
        return self._headers

    @property
    def is_event_stream(self) -> bool:
        """Whether the content type is server-sent events."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Stream the body; the idle deadline applies to each chunk, the total one to all.

        Raises:
            BackendError: STREAM_CUT, a timeout, or BAD_REPLY when the body is too large.
        """
        while chunk := await self._timer.step(self._next(), idle=True):
            waited = self._timer.has_waited
            # Counted after decompression, so that a small reply cannot expand without limit.
            self._read += len(chunk)
            if self._read > self._most:
                raise BackendError(BackendFault.BAD_REPLY, "The provider's reply is too large.")
            self._chunk = chunk
            # A provider that sends faster than events are processed must not keep the loop from other requests.
            for start in range(0, len(chunk), _PIECE):
                if start:
                    await yield_in_line()
                self._handed_on = start + _PIECE
                yield chunk[start : start + _PIECE]
            if not waited:  # otherwise the others had their turn
                await yield_to_others()

    async def body(self) -> bytes:
        """Read the whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def start_of_body(self) -> bytes:
        """Read the beginning of an error body, ignoring failures, also that it has no end: the status is known."""
        taken = b""
        self.end_within(_ERROR_WITHIN)
        with suppress(BackendError):
            async with aclosing(self.chunks()) as chunks:
                async for chunk in chunks:
                    taken += chunk
                    if len(taken) >= LARGEST_ERROR:
                        break
        return taken[:LARGEST_ERROR]

    def end_within(self, seconds: float | None) -> None:
        """Let the deadline for all pass after so many seconds at the latest, and bound what is read until then.

        A deadline passes only while nothing comes. None takes both back.
        """
        self._timer.end_within(seconds)
        self._most = LARGEST_REPLY if seconds is None else min(self._most, self._read + LONGEST_TAIL)

    async def drain(self) -> bytes:
        """Wait briefly for the end of a completed stream, so that its connection can be reused.

        Return what has come and was not handed on, up to a bound.
        """
        rest = bytearray(self._chunk[self._handed_on :])
        with suppress(TimeoutError, BackendError):
            await done_within(_DRAIN, self._drain(rest))
        return bytes(rest[:_MOST_DRAINED])

    async def _drain(self, rest: bytearray) -> None:
        while len(rest) < _MOST_DRAINED and (chunk := await self._next()):
            rest += chunk

    async def _next(self) -> bytes:
        while not (piece := next(self._pieces, b"")):
            data = await self._response.read_some()
            if self._decode is None or not data:
                return data
            self._pieces = self._decode(data)
        return piece


def _with_trace(headers: Mapping[str, str]) -> dict[str, str]:
    """Add the caller's W3C trace context, without baggage."""
    carrier = dict(headers)
    _TRACES.inject(carrier)
    return carrier


class _Timer:
    def __init__(self, deadlines: Deadlines) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = deadlines.idle.total_seconds()
        self._end = self._total = self._loop.time() + deadlines.total.total_seconds()
        self._deadline = Deadline()

    def close(self) -> None:
        self._deadline.close()

    @property
    def has_waited(self) -> bool:
        """Whether the last step waited for anything."""
        return self._deadline.has_waited

    def end_within(self, seconds: float | None) -> None:
        self._end = self._total if seconds is None else min(self._end, self._loop.time() + seconds)

    async def step(self, step: Coroutine[Any, Any, T], *, idle: bool) -> T:
        # One step at a time: a timeout that spans a `yield` would cancel the consumer's code.
        silent_at = self._loop.time() + self._idle if idle else self._end
        try:
            return await self._deadline.until(min(silent_at, self._end), step)
        except TimeoutError as error:
            if silent_at < self._end:
                raise BackendError(
                    BackendFault.TIMEOUT_IDLE, f"The agent said nothing for {self._idle:g} s."
                ) from error
            raise BackendError(BackendFault.TIMEOUT_TOTAL, "The agent did not finish in time.") from error
