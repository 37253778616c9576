"""The connections to providers, by aiohttp, and what its failures mean; imported with the first request.

Of aiohttp nothing is used that no provider is asked for: redirects, cookies, retries, credentials of the machine. It is
corrected where it starts a task for each body, leaves the reader of a broken reply waiting, withholds what came before
a fault, takes a reset for the end of a reply, or says farewell to a provider that must be left.

Its parser, llhttp, refuses what Node.js refuses as well: two lengths, a length beside chunks, and bytes after a reply.
"""

import asyncio
import logging
import re
import select
import socket
import ssl
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
from aiohttp.http import StreamWriter
from typing_extensions import override
from yarl import URL

from agentapi_mcp.backends.wire.addresses import Address, address_of
from agentapi_mcp.backends.wire.bodies import Body
from agentapi_mcp.backends.wire.proxies import proxy_of
from agentapi_mcp.base.errors import BackendError, BackendFault

_KEPT = 30  # seconds that an idle connection is kept
_NAMES_KEPT = 10  # seconds that the addresses of a host are kept
_BUFFER = 64 * 1024  # bytes of a reply; from twice as many on, the provider has to wait
_LONGEST_FIELD = 100 * 1024  # bytes of a header of a reply
_MOST_FIELDS = 300
# Not those that say where the request ends.
_FIELD_NAME = re.compile(r"(?!(?i:content-length|transfer-encoding)$)[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
# What a proxy is told: without them aiohttp would add its own name, and what it can decompress.
_TO_PROXIES = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "agentapi-mcp"}


@dataclass(frozen=True, slots=True)
class _Meaning:
    fault: BackendFault
    message: str


# The first match wins, so subclasses precede their base classes.
_BEFORE_THE_REPLY: tuple[tuple[type[Exception], _Meaning], ...] = (
    (
        aiohttp.ConnectionTimeoutError,
        _Meaning(BackendFault.TIMEOUT_CONNECT, "The provider did not accept a connection in time."),
    ),
    (aiohttp.ClientConnectorError, _Meaning(BackendFault.CONNECTION, "The provider refused the connection.")),
    (
        aiohttp.ClientHttpProxyError,
        _Meaning(BackendFault.CONNECTION, "The proxy refused to connect to the provider."),
    ),
    (aiohttp.InvalidURL, _Meaning(BackendFault.BAD_REQUEST, "The base URL is not a valid URL.")),
    (
        aiohttp.ClientError,
        _Meaning(BackendFault.CONNECTION, "The provider closed the connection without an answer."),
    ),
    (UnicodeError, _Meaning(BackendFault.CONNECTION, "The provider's host name cannot be resolved.")),
)
_NO_TLS = "The provider does not speak TLS as expected."
_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "The provider's host name cannot be resolved."),
    (ssl.SSLCertVerificationError, "The provider's certificate is not trusted."),
    (ssl.SSLError, _NO_TLS),
)


class Connections:
    """Sends requests over connections that are kept for the next ones; made and closed within an event loop."""

    def __init__(self) -> None:
        logging.getLogger("aiohttp").setLevel(logging.WARNING)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=_KEPT,
                resolver=aiohttp.ThreadedResolver(),  # what the system says, whatever else is installed
                ttl_dns_cache=_NAMES_KEPT,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_BUFFER,
            max_line_size=_LONGEST_FIELD,
            max_field_size=_LONGEST_FIELD,
            max_headers=_MOST_FIELDS,
            request_class=_Request,
            response_class=Response,
            middlewares=(_ask_once,),
        )
        self._ways = dict[str, _Way]()
        self._trusted: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], content: Body | None, *, connect: float
    ) -> "Response":
        """Send a request, and return the head of its reply; `connect` is how many seconds a connection may take.

        Raises:
            BackendError: there was no reply.
        """
        address = address_of(url)
        if not all(map(_is_field, headers, headers.values())):
            raise BackendError(BackendFault.BAD_REQUEST, "The request is not valid HTTP; check its headers.")
        way = self._way(address)
        try:
            response = await self._session.request(
                method,
                address.url,
                headers={"host": address.host, **way.headers, **headers},
                data=content,
                allow_redirects=False,
                timeout=_timeout(connect),
                proxy=way.proxy,
                proxy_headers=way.proxy_headers,
                ssl=way.trusted,
            )
        except (aiohttp.ClientError, UnicodeError) as error:
            raise _fault_of(error) from error
        return cast("Response", response)

    def _way(self, address: Address) -> "_Way":
        key = address.url.scheme + address.host
        way = self._ways.get(key)
        if way is None:  # the environment is read once for each server
            proxy = proxy_of(address.url.scheme, address.host)
            way = self._direct(address) if proxy is None else self._through(proxy, address)
            self._ways[key] = way
        return way

    def _direct(self, address: Address) -> "_Way":
        return _Way(trusted=self._trust() if address.url.scheme == "https" else True)

    def _through(self, proxy: str, address: Address) -> "_Way":
        try:
            url = URL(proxy)
        except ValueError as error:
            raise BackendError(BackendFault.BAD_REQUEST, "The address of the proxy is not a valid URL.") from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise BackendError(BackendFault.BAD_REQUEST, "The proxy of the environment is not one of HTTP.")
        is_tunnelled = address.url.scheme == "https"
        login = _login_of(url)
        return _Way(
            trusted=self._trust() if is_tunnelled or url.scheme == "https" else True,
            proxy=url.with_user(None),
            headers={} if is_tunnelled else login,
            proxy_headers=_TO_PROXIES | login,
        )

    def _trust(self) -> ssl.SSLContext:
        if self._trusted is None:
            # The same trust as for all else that this program asks: SSL_CERT_FILE, SSL_CERT_DIR, or the system's.
            import httpx2  # noqa: PLC0415  # 50 ms for a command, and a provider on this machine needs no TLS

            self._trusted = httpx2.create_ssl_context()
            self._trusted.set_alpn_protocols(["http/1.1"])
        return self._trusted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How requests come to a server."""

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
    """A connection that was kept is not usable; nothing was sent over it."""


async def _ask_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Ask a provider once; aiohttp would ask again by itself what it takes for repeatable."""
    while True:
        try:
            return await send(request)
        except _GoneError:
            continue
        except aiohttp.ClientError as error:
            raise _fault_of(error) from error


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
        protocol = cast("ResponseHandler", conn.protocol)
        if protocol in _REPLIES and _is_gone(protocol):
            raise _GoneError
        target = str(self.url) if self.proxy and not self.is_ssl() else self.url.raw_path_qs
        writer = StreamWriter(protocol, self.loop)
        await writer.write_headers(f"{self.method} {target} HTTP/1.1", self.headers)
        content, self._content = self._content, None
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

    _wire: ResponseHandler

    @override
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        self._wire = cast("ResponseHandler", connection.protocol)
        await super().start(connection)
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


def _fault_of(error: Exception) -> BackendError:
    meaning = next(meaning for kind, meaning in _BEFORE_THE_REPLY if isinstance(error, kind))
    return BackendError(meaning.fault, _cause(error) or meaning.message)


def _cause(error: BaseException) -> str | None:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionResetError):
        return None if error.ssl is True else _NO_TLS  # it was accepted before that
    seen: BaseException | None = error
    while seen is not None:
        for kind, message in _CAUSES:
            if isinstance(seen, kind):
                return message
        seen = seen.__cause__ or seen.__context__
    return None
