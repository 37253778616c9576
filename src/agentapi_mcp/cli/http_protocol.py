"""uvicorn's HTTP protocol over httptools, with bounds on a request's head and on the time to send it."""

import asyncio
import logging
import select
from http import HTTPStatus
from socket import SocketType
from typing import Any, cast

import httptools
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from agentapi_mcp.web.requests import ARRIVAL, Arrival

LARGEST_HEAD = 32 * 1024  # bytes of target and headers, as much as nginx passes on by default
MOST_HEADERS = 100
# Requests that may wait for the response before theirs. Each costs memory as soon as it is parsed, uvicorn reads on
# after every response, and no MCP client sends one before the last is answered.
MOST_PIPELINED = 16
# Linux alone tells of an end that stands behind unread bytes.
_CLOSED = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
_BLANK = (b" ", b"\t")
_log = logging.getLogger(__name__)


class HttpProtocol(HttpToolsProtocol):
    """One connection; what is not HTTP, or takes too long to arrive, is refused and closes it.

    The parser bounds no head, and uvicorn has a deadline only between a response and the next byte. A connection that
    has sent nothing, a part of a head, or a refused body that does not end, is closed after `seconds_to_send`. The
    trailers of a chunked body have the bounds of a head, and are dropped.
    """

    seconds_to_send = 20.0

    _deadline: asyncio.TimerHandle | None = None
    _awaits_head = True
    _parts = 0  # heads, pieces of bodies and ends of requests that were parsed
    _head_bytes = 0  # since the last of them
    _header_bytes = 0  # of the head that is being parsed
    _trailers = 0
    _trailer_bytes = 0
    _status = HTTPStatus.BAD_REQUEST
    _is_broken = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._start_deadline()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_deadline()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        self._unset_keepalive_if_required()
        if self._is_broken:
            return
        parts = self._parts
        self._head_bytes += len(data)
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:
            self._refuse(self._status)
        else:
            if self._parts == parts:
                self._continue_head()

    def _parse(self, data: memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                # No upgrade is accepted here (RFC 9110, section 7.8); Java's client offers one to HTTP/2. The parser
                # would skip the body of such a request, so it gets the head again, without the offer.
                offset: int = offer.args[0]
                data = data[offset:]
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.feed_data(head)
            else:
                break

    def _is_offer(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_offer(self) -> bytes:
        first = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([first, *kept, b"", b""])

    def _continue_head(self) -> None:
        # A header or trailer without an end reaches no callback, nor do the extensions of a chunk.
        if self._head_bytes > LARGEST_HEAD:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._awaits_head:
            self._start_deadline()

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or drop a trailer, for which the parser has no other callback."""
        if not self._awaits_head:
            self._drop_trailer(name, value)
            return
        self._header_bytes += len(name) + len(value)
        if len(self.headers) >= MOST_HEADERS or self._header_bytes > LARGEST_HEAD:
            self._raise_too_large()
        # RFC 9110, section 5.5: white space around a value is no part of it; the parser leaves what follows it.
        if value[-1:] in _BLANK:
            value = value.strip(b" \t")
        super().on_header(name, value)

    def _drop_trailer(self, name: bytes, value: bytes) -> None:
        # RFC 9110, section 6.5.1: never merged into the head, of which a proxy has set or removed headers.
        self._trailers += 1
        self._trailer_bytes += len(name) + len(value)
        if self._trailers > MOST_HEADERS or self._trailer_bytes > LARGEST_HEAD:
            self._raise_too_large()
        self._start_deadline()

    @override
    def on_headers_complete(self) -> None:
        """Begin the request."""
        if len(self.url) + self._header_bytes > LARGEST_HEAD:
            self._raise_too_large()
        self._header_bytes = 0
        if self._is_offer():
            return  # this head comes again, without the offer
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many requests are waiting")  # RFC 9112, section 9.3.2: the client sends them again
        if self.url[:1] not in {b"/", b"*"}:
            # RFC 9112, section 3.2.2: a host in the target takes the place of the header.
            authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [header for header in self.headers if header[0] != b"host"] + [(b"host", authority)]
        super().on_headers_complete()
        cycle: Any = self.cycle
        cycle.transport = WholeAnswers(self.transport, self.loop)
        scope: Any = self.scope
        scope[ARRIVAL] = self._arrival_of(cycle)
        self._stop_deadline()
        self._awaits_head = False
        self._trailers = self._trailer_bytes = 0
        self._end_part()

    def _arrival_of(self, cycle: RequestResponseCycle) -> Arrival:
        headers = self.headers

        def hold() -> int:
            cycle.flow.pause_reading()  # until the application asks for the body
            return sum(len(name) + len(value) for name, value in headers) + len(cycle.body)

        def is_gone() -> bool:
            return cycle.disconnected or _is_closed_by_peer(self.transport)

        return Arrival(hold, is_gone)

    @override
    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._end_part()
        super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        """End the request, whose response may take longer."""
        if self._is_offer():
            return
        self._stop_deadline()
        self._awaits_head = True
        self._end_part()
        super().on_message_complete()

    @override
    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that was refused."""
        cycle: Any = self.cycle
        cycle.transport.flush()  # a head alone is a whole response, too
        super().on_response_complete()
        if not self._awaits_head:
            self._start_deadline()

    def _end_part(self) -> None:
        self._parts += 1
        self._head_bytes = 0

    def _raise_too_large(self) -> None:
        self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise ValueError("the head is too large")

    def _start_deadline(self) -> None:
        # Never restarted by a further byte: a client could send one at a time.
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.seconds_to_send, self._expire)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        cycle = self._unanswered()
        if cycle is not None and self._awaits_head:  # a part of the next head came early
            self._start_deadline()
        elif cycle is not None or self._head_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _unanswered(self) -> RequestResponseCycle | None:
        """Return the newest request, if its response is not complete."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return None if cycle is None or cycle.response_complete else cycle

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer with an error and close; requests that came before are answered first."""
        _log.info("http_not_valid", extra={"status": int(status), "client": self.client[0] if self.client else ""})
        cycle = self._unanswered()
        if self._is_unanswered(cycle):
            self._send_error(status)
        if cycle is not None and not self._awaits_head:  # its body is broken
            self.transport.close()
        self._close_after_response()

    def _is_unanswered(self, cycle: RequestResponseCycle | None) -> bool:
        """Return whether an error would be the answer to what is broken, and to nothing else."""
        if self._awaits_head:
            return cycle is None
        return cycle is not None and not (cycle.response_started or self.pipeline)

    def _close_after_response(self) -> None:
        """Read no more, and close once all requests are answered."""
        self._is_broken = True
        self._stop_deadline()
        cycle = self._unanswered()
        if cycle is None:
            self.transport.close()
        else:
            cycle.keep_alive = False

    def _send_error(self, status: HTTPStatus) -> None:
        text = f"{status.phrase}."
        head = f"HTTP/1.1 {int(status)} {status.phrase}\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n{text}".encode())


class WholeAnswers:
    """What one response is written to: its head leaves with what follows it at once, in one system call.

    A head that nothing follows at once, as that of a stream, leaves when the loop turns.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._has_begun = False
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Write a part of the response."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        elif self._has_begun:
            self._transport.write(data)
        else:
            self._has_begun = True
            self._head = data
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write a head that waits."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    def close(self) -> None:
        """Close the connection once everything is written."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection closes."""
        return self._transport.is_closing()


def _is_closed_by_peer(transport: asyncio.Transport) -> bool:
    """Return whether the other end has closed a connection: behind what has not been read, nobody tells of it."""
    socket: SocketType | None = transport.get_extra_info("socket")
    if transport.is_closing() or socket is None:
        return transport.is_closing()
    events = select.poll()
    events.register(socket.fileno(), _CLOSED)
    return bool(events.poll(0))
