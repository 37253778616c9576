"""The connections to providers, by aiohttp; imported with the first request.

Of aiohttp nothing is used that no provider is asked for: redirects, cookies, retries, credentials of the machine. It is
corrected where it starts a task for each body, leaves the reader of a broken reply waiting, withholds what came before
a fault, takes a reset for the end of a reply, or says farewell to a provider that must be left.

Its parser, llhttp, refuses what Node.js refuses as well: two lengths, a length beside chunks, and bytes after a reply.

A kept connection may close as a request is on its way. Such a request is sent again only if the provider provably has
not got it: a POST is not idempotent, and an answer may have been begun and billed (RFC 9110, section 9.2.2). It is
proven where the provider ended the connection before its TCP acknowledged a byte of the request.
"""

import asyncio
import logging
import re
import select
import socket
import ssl
import struct
import sys
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.helpers import TimerNoop
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from typing_extensions import override
from yarl import URL

from agentapi_mcp.backends.wire.addresses import Address, address_of
from agentapi_mcp.backends.wire.bodies import Body, Outgoing
from agentapi_mcp.backends.wire.connection_faults import (
    INTERIM,
    LONGEST_FIELD,
    MOST_FIELDS,
    MOST_INTERIM,
    Route,
    fault_of,
    refused_by_proxy,
    unusable_authorities,
    unusable_proxy,
)
from agentapi_mcp.backends.wire.proxies import Proxy, proxy_of
from agentapi_mcp.base.errors import BackendError, BackendFault

_KEPT = 4.0  # seconds that an idle connection is kept: Node.js and uvicorn close theirs after 5
_KEPT_AT_MOST = 30.0  # seconds, where the provider says how long it keeps them
_MARGIN = 1.0  # seconds by which a connection is left before the provider closes it
_KEEP_ALIVE = re.compile(r"(?i)(?:^|[,;\s])timeout\s*=\s*\"?(\d{1,9})")
_BYTES_ACKED = struct.Struct("120xQ")  # of Linux' tcp_info
_REQUEST_TIMEOUT = 408
_LOGIN_WANTED = 407
_FIRST_FINAL = 200
_PIECE = 16 * 1024  # bytes that are parsed at once before a body
_NAMES_KEPT = 10  # seconds that the addresses of a host are kept
_BUFFER = 64 * 1024  # bytes of a reply; from twice as many on, the provider has to wait
# Not those that say where the request ends.
_FIELD_NAME = re.compile(r"(?!(?i:content-length|transfer-encoding)$)[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
# What a proxy is told: without them aiohttp would add its own name, and what it can decompress.
_TO_PROXIES = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "agentapi-mcp"}


class Connections:
    """Sends requests over connections that are kept for the next ones; made and closed within an event loop."""

    def __init__(self) -> None:
        logging.getLogger("aiohttp").setLevel(logging.WARNING)
        self._session = aiohttp.ClientSession(
            connector=_Connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_BUFFER,
            max_line_size=LONGEST_FIELD,
            max_field_size=LONGEST_FIELD,
            max_headers=MOST_FIELDS,
            request_class=_Request,
            response_class=Response,
            middlewares=(_ask_once,),
        )
        self._ways = dict[tuple[str, str, str | None], _Way]()
        self._trusted = dict[str | None, ssl.SSLContext]()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(self, outgoing: Outgoing) -> "Response":
        """Send a request, and return the head of its reply.

        Raises:
            BackendError: there was no reply.
        """
        address, headers = address_of(outgoing.url), outgoing.headers
        if not all(map(_is_field, headers, headers.values())):
            said = "The request is not valid HTTP; check its headers."
            raise BackendError(BackendFault.BAD_REQUEST, said).as_unbilled()
        way = self._way(address, outgoing.ca_file)
        try:
            response = await self._session.request(
                outgoing.method,
                address.url,
                headers={"host": address.host, **way.headers, **headers},
                data=outgoing.content,
                allow_redirects=False,
                timeout=_timeout(outgoing.connect),
                proxy=way.proxy,
                proxy_headers=way.proxy_headers,
                ssl=way.trusted,
            )
        except _FailedError as failed:
            raise fault_of(failed.reason, way.route) from failed.reason
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            raise fault_of(error, way.route) from error
        if response.status == _LOGIN_WANTED and way.proxy is not None:
            response.close()
            raise refused_by_proxy(response.status, way.route)
        return cast("Response", response)

    def _way(self, address: Address, ca_file: str | None) -> "_Way":
        key = address.url.scheme, address.host, ca_file
        way = self._ways.get(key)
        if way is None:  # the environment is read once for each server
            proxy = proxy_of(address.url.scheme, address.url.raw_host or "", address.url.port)
            way = self._direct(address, ca_file) if proxy is None else self._through(proxy, address, ca_file)
            self._ways[key] = way
        return way

    def _direct(self, address: Address, ca_file: str | None) -> "_Way":
        is_secure = address.url.scheme == "https"
        return _Way(Route(is_secure=is_secure), trusted=self._trust(ca_file) if is_secure else True)

    def _through(self, proxy: Proxy, address: Address, ca_file: str | None) -> "_Way":
        try:
            url = URL(proxy.url)
        except ValueError:
            raise unusable_proxy("", proxy.source) from None  # the error repeats the URL, with its password
        if url.scheme not in {"http", "https"} or not url.host:
            raise unusable_proxy(url.scheme, proxy.source)
        is_tunnelled = address.url.scheme == "https"
        login = _login_of(url)
        return _Way(
            Route(is_secure=is_tunnelled, proxy=proxy.source),
            trusted=self._trust(ca_file) if is_tunnelled or url.scheme == "https" else True,
            proxy=url.with_user(None),
            headers={} if is_tunnelled else login,
            proxy_headers=_TO_PROXIES | login,
        )

    def _trust(self, ca_file: str | None) -> ssl.SSLContext:
        trusted = self._trusted.get(ca_file)
        if trusted is None:
            try:
                trusted = _of_the_machine() if ca_file is None else ssl.create_default_context(cafile=ca_file)
            except OSError as error:  # also what is no certificate
                raise unusable_authorities("ca_file" if ca_file else "SSL_CERT_FILE") from error
            trusted.set_alpn_protocols(["http/1.1"])
            self._trusted[ca_file] = trusted
        return trusted


def _of_the_machine() -> ssl.SSLContext:
    # The same trust as for all else that this program asks: SSL_CERT_FILE, SSL_CERT_DIR, or the system's.
    import httpx2  # noqa: PLC0415  # 50 ms for a command, and a provider on this machine needs no TLS

    return httpx2.create_ssl_context()


@dataclass(frozen=True, slots=True)
class _Way:
    """How requests come to a server."""

    route: Route
    trusted: ssl.SSLContext | bool
    proxy: URL | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    proxy_headers: Mapping[str, str] | None = None


def _login_of(proxy: URL) -> dict[str, str]:
    if proxy.user is None and proxy.password is None:
        return {}
    login = b64encode(f"{proxy.user or ''}:{proxy.password or ''}".encode()).decode()
    return {"proxy-authorization": f"Basic {login}"}


def _is_field(name: str, value: str) -> bool:
    return _FIELD_NAME.fullmatch(name) is not None and _FIELD_VALUE.fullmatch(value) is not None


@lru_cache(100)
def _timeout(connect: float) -> aiohttp.ClientTimeout:
    # No others, each of which would be a timer: whoever sends a request bounds the wait for its reply.
    return aiohttp.ClientTimeout(total=None, connect=connect)


class _GoneError(Exception):
    """A connection that was kept is not usable; the provider got nothing over it."""


async def _ask_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Ask a provider once; aiohttp would ask again by itself what it takes for repeatable."""
    while True:
        try:
            return await send(request)
        except _GoneError:
            continue
        except aiohttp.ClientError as error:
            # As what aiohttp does not take for a reason to ask again.
            raise _FailedError(error) from error


class _FailedError(Exception):
    """A request got no reply."""

    def __init__(self, reason: aiohttp.ClientError) -> None:
        super().__init__()
        self.reason = reason


class _Wire(ResponseHandler):
    """A connection, which notes what the provider has got of a request when it ends the connection."""

    kept_for = _KEPT
    kept_since = 0.0
    got_before: int | None = None
    is_unread = False
    interim = 0

    @override
    def data_received(self, data: bytes) -> None:
        if len(data) <= _PIECE or self._payload is not None:
            super().data_received(data)
            return
        # So that interim replies without end are noticed after some of them: to parse each takes its time.
        for start in range(0, len(data), _PIECE):
            if self.interim <= MOST_INTERIM:
                super().data_received(data[start : start + _PIECE])

    @override
    def feed_data(self, data: tuple[RawResponseMessage, aiohttp.StreamReader], size: int = 0) -> None:
        self.interim += data[0].code < _FIRST_FINAL
        if self.interim <= MOST_INTERIM:
            super().feed_data(data, size)
        elif self.exception() is None:
            self.set_exception(HttpProcessingError(message=INTERIM))
            if self.transport is not None:
                self.transport.abort()

    def keep(self) -> None:
        """Note that it is idle from now on."""
        self.kept_since = self._loop.time()

    @property
    def is_stale(self) -> bool:
        """Whether it was idle for longer than the provider may keep it."""
        return self._loop.time() - self.kept_since > self.kept_for

    def has_got_nothing(self, transport: asyncio.BaseTransport | None) -> bool:
        """Whether the provider has provably got nothing of the request; false where the system does not tell."""
        return self.got_before is not None and _bytes_acked(transport) == self.got_before

    @override
    def eof_received(self) -> None:
        # At its end, which the provider has sent: what comes later, such as a reset, would prove nothing.
        self.is_unread = self.has_got_nothing(self.transport)
        super().eof_received()


def _bytes_acked(transport: asyncio.BaseTransport | None) -> int | None:
    if transport is None or sys.platform != "linux":
        return None
    try:
        info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        return cast("int", _BYTES_ACKED.unpack(info)[0])
    except (OSError, AttributeError, struct.error):
        return None


class _Connector(aiohttp.TCPConnector):
    def __init__(self) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # aiohttp leaves a part of its keywords untyped
            limit=0,
            keepalive_timeout=_KEPT_AT_MOST,
            resolver=aiohttp.ThreadedResolver(),  # what the system says, whatever else is installed
            ttl_dns_cache=_NAMES_KEPT,
        )
        self._factory = partial(_Wire, loop=self._loop)


def kept_for(keep_alive: str | None) -> float:
    """Return for how many seconds a connection is kept whose provider sends this `Keep-Alive`."""
    said = None if keep_alive is None else _KEEP_ALIVE.search(keep_alive)
    return _KEPT if said is None else min(int(said[1]) - _MARGIN, _KEPT_AT_MOST)


class _Request(aiohttp.ClientRequest):
    """A request that is written with its body at once, for which aiohttp would start a task."""

    _content: Body | None = None

    @override
    def update_body_from_data(self, body: Any, _stacklevel: int = 3) -> None:
        self._content = body
        if body is not None:  # without its size it would have to be sent in chunks, which not every provider takes
            self.headers["content-length"] = str(body.size)

    @override
    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        protocol = cast("_Wire", conn.protocol)
        protocol.got_before, protocol.is_unread, protocol.interim = None, False, 0
        if protocol in _REPLIES:
            if protocol.is_stale or _is_gone(protocol):
                raise _GoneError
            # What was answered before was acknowledged: where that does not count, nothing is known.
            protocol.got_before = _bytes_acked(protocol.transport) or None
        target = str(self.url) if self.proxy and not self.is_ssl() else self.url.raw_path_qs
        writer = StreamWriter(protocol, self.loop)
        await writer.write_headers(f"{self.method} {target} HTTP/1.1", self.headers)
        content = self._content
        try:
            with suppress(ConnectionError):  # a provider may answer, and close, before it has read all
                await writer.write_eof(b"" if content is None else content.take())
        except BaseException:
            _abort(conn)
            raise
        return self.response_class(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=TimerNoop(),
            request_info=self.request_info,
            traces=[],
            loop=self.loop,
            session=self.session,
            stream_writer=writer,
        )


class Response(aiohttp.ClientResponse):
    """A reply, whose body is read as it comes."""

    _wire: _Wire

    @override
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        self._wire = wire = cast("_Wire", connection.protocol)
        transport = connection.transport  # which a reply without a body lets go
        try:
            await super().start(connection)
        except aiohttp.ClientError as error:
            if wire.is_unread:
                raise _GoneError from error
            raise
        if self.status == _REQUEST_TIMEOUT and (wire.is_unread or wire.has_got_nothing(transport)):
            raise _GoneError  # some say so before they close a connection that was idle
        wire.got_before = None
        wire.kept_for = kept_for(self.headers.get("keep-alive"))
        wire.keep()
        connection.add_callback(wire.keep)  # which comes later, unless all has come with the head
        if self._wire not in _REPLIES and (closed := self._wire.closed) is not None:
            closed.add_done_callback(partial(_end_reply, ref(self._wire)))
        _REPLIES[self._wire] = ref(self)
        return self

    @override
    def close(self) -> None:
        """Leave the provider at once, unless all was received.

        What is still to be sent, or a farewell of TLS that nobody answers, would keep it at work.
        """
        if self.connection is not None:
            _abort(self.connection)
        super().close()

    @property
    def fields(self) -> Mapping[str, str]:
        """The headers; what is not UTF-8 is read as Latin-1, so that all of it is text."""
        if all(map(str.isascii, self.headers.values())):
            return self.headers
        fields = self.headers.copy()
        fields.clear()
        for name, value in self.headers.items():
            fields.add(name, _text(value))
        return fields

    async def read_some(self) -> bytes:
        """Return what has come, or comes next, of the body; nothing at its end.

        Raises:
            BackendError: STREAM_CUT.
        """
        try:
            data = await self.content.readany()
        except (aiohttp.ClientError, RuntimeError) as error:
            if rest := self._withheld(error):
                return rest
            raise _cut() from error
        if not data and self._was_reset():
            raise _cut()
        return data

    def _withheld(self, error: Exception) -> bytes:
        # aiohttp tells of a fault before it hands over what came earlier.
        self.content.set_exception(cast("Exception", None))
        rest = self.content.read_nowait()
        self.content.set_exception(error)
        return rest

    def _was_reset(self) -> bool:
        # A body without a length ends with the connection, for aiohttp also with one that broke.
        has_length = "content-length" in self.headers or "transfer-encoding" in self.headers
        return not has_length and isinstance(self._wire.exception(), aiohttp.ClientOSError)


def _text(value: str) -> str:
    raw = value.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


# The last reply on each connection that had one.
_REPLIES: WeakKeyDictionary[ResponseHandler, "ref[Response]"] = WeakKeyDictionary()


def _is_gone(protocol: ResponseHandler) -> bool:
    """Whether the provider has closed a connection that was kept, or said something unasked, as before closing it."""
    transport = protocol.transport
    if transport is None or transport.is_closing() or len(protocol):
        return True
    arrived = select.poll()  # the loop may not have seen yet what has arrived
    arrived.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(arrived.poll(0))


def _end_reply(wire: "ref[ResponseHandler]", closed: "asyncio.Future[None]") -> None:
    """Tell who reads a reply that its connection is closed: aiohttp does not, if it could not parse what came last."""
    _ = closed.exception()
    protocol = wire()
    response = None if protocol is None else _REPLIES[protocol]()
    if response is not None and not response.content.is_eof() and response.content.exception() is None:
        response.content.set_exception(aiohttp.ClientPayloadError())


def _abort(connection: Connection) -> None:
    if connection.transport is not None:
        connection.transport.abort()


def _cut() -> BackendError:
    return BackendError(BackendFault.STREAM_CUT, "The connection broke in mid-answer.")
