"""The process's shared HTTP client, with total and idle deadlines and mapped exceptions.

It does not retry, follow redirects or store cookies, and limits the size of replies.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from typing_extensions import override

from agentapi_mcp.backends.wire.proxies import proxy_of
from agentapi_mcp.base.concurrency import yield_in_line, yield_to_others
from agentapi_mcp.base.deadlines import Deadline, done_within
from agentapi_mcp.base.errors import BackendError, BackendFault

LARGEST_REPLY = 32 * 1024 * 1024  # bytes of a reply, streamed or not
LARGEST_ERROR = 64 * 1024  # bytes read of an error reply
_PIECE = 4 * 1024  # bytes that are handed on at once: some twenty events
_DRAIN = 0.2  # seconds to wait for the end of a completed stream, so that its connection can be reused

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Time limits for the connection, for the next byte, and for the whole exchange."""

    connect: timedelta
    idle: timedelta
    total: timedelta


class Body(httpx2.AsyncByteStream):
    """The body of a request, which is let go when it is sent: the answer may take minutes."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = [content]

    @override
    async def __aiter__(self) -> AsyncGenerator[bytes]:
        while self._content:
            yield self._content.pop()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request; with `waits_for_all` the first byte has the total deadline instead of the idle one."""

    method: str
    url: str
    headers: Mapping[str, str]
    deadlines: Deadlines
    content: Body | None = None
    waits_for_all: bool = False


@dataclass(frozen=True, slots=True)
class _Meaning:
    fault: BackendFault
    message: str


# The first match wins, so subclasses precede their base classes.
_BEFORE_THE_REPLY: tuple[tuple[type[Exception], _Meaning], ...] = (
    (
        httpx2.ConnectTimeout,
        _Meaning(BackendFault.TIMEOUT_CONNECT, "The provider did not accept a connection in time."),
    ),
    (httpx2.PoolTimeout, _Meaning(BackendFault.TIMEOUT_CONNECT, "No connection to the provider was free in time.")),
    (httpx2.TimeoutException, _Meaning(BackendFault.TIMEOUT_IDLE, "The provider went silent.")),
    (httpx2.ConnectError, _Meaning(BackendFault.CONNECTION, "The provider refused the connection.")),
    (httpx2.ProxyError, _Meaning(BackendFault.CONNECTION, "The proxy refused to connect to the provider.")),
    (
        httpx2.LocalProtocolError,
        _Meaning(BackendFault.BAD_REQUEST, "The request is not valid HTTP; check its headers."),
    ),
    (httpx2.UnsupportedProtocol, _Meaning(BackendFault.BAD_REQUEST, "The base URL is not one of HTTP.")),
    (httpx2.InvalidURL, _Meaning(BackendFault.BAD_REQUEST, "The base URL is not a valid URL.")),
    (httpx2.HTTPError, _Meaning(BackendFault.CONNECTION, "The provider closed the connection without an answer.")),
)
_WITHIN_THE_REPLY: tuple[tuple[type[Exception], _Meaning], ...] = (
    (httpx2.TimeoutException, _Meaning(BackendFault.TIMEOUT_IDLE, "The provider went silent in mid-answer.")),
    (httpx2.DecodingError, _Meaning(BackendFault.BAD_REPLY, "The provider's reply could not be decompressed.")),
    (httpx2.HTTPError, _Meaning(BackendFault.STREAM_CUT, "The connection broke in mid-answer.")),
)
_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "The provider's host name cannot be resolved."),
    (ssl.SSLCertVerificationError, "The provider's certificate is not trusted."),
    (ssl.SSLError, "The provider does not speak TLS as expected."),
)


_TRACES = TraceContextTextMapPropagator()
_OURS = {"accept": "*/*", "accept-encoding": "gzip, deflate", "connection": "keep-alive", "user-agent": "agentapi-mcp"}


class HttpClient:
    """Sends requests over pooled connections; opened by the first request, closed by its owner.

    It uses httpx's transports without its client, which costs as much CPU as a transport does: for redirects, cookies,
    credentials in URLs and other things that no provider is asked for.
    """

    def __init__(self) -> None:
        self._transports = dict[str | None, httpx2.AsyncHTTPTransport]()  # by the URL of the proxy
        self._of_origin = dict[tuple[str, bytes], httpx2.AsyncHTTPTransport]()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transports, self._transports, self._of_origin = self._transports, {}, {}
        for transport in transports.values():
            await transport.aclose()

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
                await response.aclose()

    async def _send(self, request: HttpRequest) -> httpx2.Response:
        connect = request.deadlines.connect.total_seconds()
        try:
            url = _parsed(request.url)
            outgoing = httpx2.Request(
                request.method,
                url,
                headers={**_OURS, "host": url.netloc.decode("ascii"), **_with_trace(request.headers)}
                | _size_of(request.content),
                stream=request.content or httpx2.ByteStream(b""),
                # Reading is timed by `_Timer`, which knows the deadline of the whole exchange too.
                extensions={"timeout": {"connect": connect, "pool": connect, "read": None, "write": None}},
            )
            return await self._transport(url).handle_async_request(outgoing)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _fault_of(error, _BEFORE_THE_REPLY) from error

    def _transport(self, url: httpx2.URL) -> httpx2.AsyncHTTPTransport:
        origin = (url.scheme, url.netloc)
        found = self._of_origin.get(origin)
        if found is None:  # the environment is read once for each server
            proxy = proxy_of(url)
            found = self._transports.get(proxy) or self._open(proxy)
            self._of_origin[origin] = found
        return found

    def _open(self, proxy: str | None) -> httpx2.AsyncHTTPTransport:
        logging.getLogger("httpcore2").setLevel(logging.WARNING)  # it logs URLs and headers, which may hold secrets
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=30)
        self._transports[proxy] = transport = httpx2.AsyncHTTPTransport(limits=limits, proxy=proxy)
        return transport


class Reply:
    """A reply with status and headers, whose body can be read once."""

    def __init__(self, response: httpx2.Response, timer: "_Timer") -> None:
        self._response = response
        self._timer = timer
        self._body = response.aiter_bytes()
        self._read = 0

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with case-insensitive names."""
        return self._response.headers

    @property
    def is_event_stream(self) -> bool:
        """Whether the content type is server-sent events."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Stream the body; the idle deadline applies to each chunk, the total one to all.

        Raises:
            BackendError: STREAM_CUT, a timeout, or BAD_REPLY when the body is too large.
        """
        async with aclosing(self._body):
            while (chunk := await self._timer.step(self._next(), idle=True)) is not None:
                waited = self._timer.has_waited
                # Counted after decompression, so that a small reply cannot expand without limit.
                self._read += len(chunk)
                if self._read > LARGEST_REPLY:
                    raise BackendError(BackendFault.BAD_REPLY, "The provider's reply is too large.")
                # A provider that sends faster than events are processed must not keep the loop from other requests.
                for start in range(0, len(chunk), _PIECE):
                    if start:
                        await yield_in_line()
                    yield chunk[start : start + _PIECE]
                if not waited:  # otherwise the others had their turn
                    await yield_to_others()

    async def body(self) -> bytes:
        """Read the whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def start_of_body(self) -> bytes:
        """Read the beginning of an error body, ignoring failures."""
        taken = b""
        with suppress(BackendError):
            async with aclosing(self.chunks()) as chunks:
                async for chunk in chunks:
                    taken += chunk
                    if len(taken) >= LARGEST_ERROR:
                        break
        return taken[:LARGEST_ERROR]

    async def drain(self) -> None:
        """Wait briefly for the end of a completed stream, so that its connection can be reused."""
        with suppress(TimeoutError, httpx2.HTTPError):
            await done_within(_DRAIN, self._drain())

    async def _drain(self) -> None:
        async for chunk in self._body:
            self._read += len(chunk)
            if self._read >= LARGEST_REPLY:
                break

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._body, None)
        except httpx2.HTTPError as error:
            raise _fault_of(error, _WITHIN_THE_REPLY) from error


def _size_of(body: Body | None) -> dict[str, str]:
    # Without it the body would be sent in chunks, which not every provider takes.
    return {} if body is None else {"content-length": str(body.size)}


def _with_trace(headers: Mapping[str, str]) -> dict[str, str]:
    """Add the caller's W3C trace context, without baggage."""
    carrier = dict(headers)
    _TRACES.inject(carrier)
    return carrier


class _Timer:
    def __init__(self, deadlines: Deadlines) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = deadlines.idle.total_seconds()
        self._end = self._loop.time() + deadlines.total.total_seconds()
        self._deadline = Deadline()

    def close(self) -> None:
        self._deadline.close()

    @property
    def has_waited(self) -> bool:
        """Whether the last step waited for anything."""
        return self._deadline.has_waited

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


@lru_cache(100)  # parsing one takes a tenth of the CPU of its request
def _parsed(url: str) -> httpx2.URL:
    return httpx2.URL(url)


def _fault_of(error: Exception, table: tuple[tuple[type[Exception], _Meaning], ...]) -> BackendError:
    meaning = next(meaning for kind, meaning in table if isinstance(error, kind))
    return BackendError(meaning.fault, _cause(error) or meaning.message)


def _cause(error: BaseException) -> str | None:
    seen: BaseException | None = error
    while seen is not None:
        for kind, message in _CAUSES:
            if isinstance(seen, kind):
                return message
        seen = seen.__cause__ or seen.__context__
    return None
