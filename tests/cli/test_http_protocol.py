"""Requests on raw sockets: a framing that two parsers could read in two ways is refused, and closes the connection."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import uvicorn
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from agentapi_mcp.cli.http_protocol import LARGEST_HEAD, MOST_HEADERS, MOST_PIPELINED, HttpProtocol, WholeAnswers
from agentapi_mcp.web.framing import Framing, framing_refusal
from agentapi_mcp.web.requests import ARRIVAL, Arrival
from tests.support.http_servers import serving

HOST = b"Host: a\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


class Timed(HttpProtocol):
    """Its time to send a head is over when the test says so."""

    seconds_to_send = 3600.0
    opened: ClassVar["list[Timed]"] = []
    received = 0

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:
        """Let the test find it."""
        super().connection_made(transport)
        self.opened.append(self)

    @override
    def data_received(self, data: bytes) -> None:
        """Count what has arrived."""
        super().data_received(data)
        self.received += len(data)

    @property
    def ends_at(self) -> float | None:
        """When its time is over, if it runs."""
        return None if self._deadline is None else self._deadline.when()

    def end_time(self) -> None:
        """Let it be over, if it runs."""
        if self._deadline is not None:
            self._stop_deadline()
            self._expire()


@dataclass
class Echo:
    """Answers with the target's path, the host and the body; waits first for what a test says."""

    before: Callable[[Request], Awaitable[object]] | None = None
    served: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive)
        if self.before is not None:
            await self.before(request)
        self.served.append(request.url.path)
        try:
            body = b"" if request.url.path.startswith("/refused") else await request.body()
        except ClientDisconnect:
            return
        text = f"path={scope['path']} host={request.headers.get('host')} body={body.decode('latin-1')}"
        await PlainTextResponse(text)(scope, receive, send)


@asynccontextmanager
async def served(echo: Echo, protocol: type[HttpProtocol] = HttpProtocol) -> AsyncGenerator[tuple[str, int]]:
    """Serve on a port, and give its address."""
    config = uvicorn.Config(Framing(echo), http=protocol, log_config=None, access_log=False, ws="none", lifespan="off")
    async with serving(config) as address:
        yield address


@dataclass(frozen=True)
class Connection:
    """Both ends of a connection."""

    server: Timed
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait until the server has read them."""
        read = self.server.received + len(data)
        self.writer.write(data)
        while self.server.received < read:
            await checkpoint()


@asynccontextmanager
async def connected(echo: Echo) -> AsyncGenerator[Connection]:
    """Serve one connection, whose time the test ends."""
    Timed.opened.clear()
    async with served(echo, Timed) as address:
        reader, writer = await asyncio.open_connection(*address)
        while not Timed.opened:
            await checkpoint()
        try:
            yield Connection(Timed.opened[0], reader, writer)
        finally:
            writer.close()


async def said(address: tuple[str, int], *sent: bytes) -> bytes:
    """Send bytes and an end, and return all that comes back before the connection is closed."""
    reader, writer = await asyncio.open_connection(*address)
    for part in sent:
        writer.write(part)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all responses."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", answer)]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
        (CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\nabc", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX y: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nxyz\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (CHUNKED + b"\r\n3;a\nb\r\nabc\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\nFFFFFFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\n+3\r\nabc\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\n-3\r\nabc\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\n0x3\r\nabc\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\n3 \r\nabc\r\n0\r\n\r\n", 400),
        (CHUNKED + b"\r\n3\nabc\n0\n\n", 400),
        (CHUNKED + b"\r\n3\r\nabcXX0\r\n\r\n", 400),
        (CHUNKED + b"\r\n0\r\nContent-Length: 5\r\n\r\n", 400),
        (b"CONNECT evil:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * LARGEST_HEAD + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * LARGEST_HEAD * 2, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * MOST_HEADERS + b"\r\n", 431),
        (b"GET /" + b"a" * LARGEST_HEAD + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    ],
)
async def test_a_framing_that_is_not_sound_is_refused_and_nothing_behind_it_is_served(
    request_bytes: bytes, status: int
) -> None:
    echo = Echo()
    async with served(echo) as address:
        assert statuses(await said(address, request_bytes, NEXT)) == [status]
    assert "/next" not in echo.served


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"GET /a HTTP/1.1\r\nhOsT: a\r\n\r\n", "path=/a host=a body="),
        (b"\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", "path=/a host=a body="),  # RFC 9112, section 2.2
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "path=/ host=a body=abc"),
        (CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n", "path=/ host=a body=abc"),
        (CHUNKED + b"\r\n3;a=b\r\nabc\r\n0\r\n\r\n", "path=/ host=a body=abc"),
        (CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX: trailer\r\n\r\n", "path=/ host=a body=abc"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", "path=/ host=a body="),
        (b"GET http://b:1/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "path=/x host=b:1 body="),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (LARGEST_HEAD // 2) + b"\r\n\r\n", "path=/ host=a body="),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * (MOST_HEADERS - 1) + b"\r\n", "path=/ host=a body="),
    ],
)
async def test_a_sound_request_is_served_and_so_is_the_next_on_its_connection(
    request_bytes: bytes, expected: str
) -> None:
    last = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with served(Echo()) as address:
        whole = await said(address, request_bytes, last)
        assert statuses(whole) == [200, 200]
        assert expected.encode() + b"HTTP/1.1" in whole
        # However it is cut, the meaning is the same.
        assert statuses(await said(address, *(bytes([byte]) for byte in request_bytes + last))) == [200, 200]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
@pytest.mark.parametrize("length", [0, 3])
async def test_an_offer_to_upgrade_is_not_taken_and_its_request_served(protocol: bytes, length: int) -> None:
    """Java's client offers HTTP/2 with its requests."""
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol
    head += b"\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: %d\r\n\r\n" % length
    last = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n"
    echo = Echo()
    async with served(echo) as address:
        sent = (head + b"abc"[:length]) * 2 + last
        whole = await said(address, sent)
        cut = await said(address, *(bytes([byte]) for byte in sent))
    assert (statuses(whole), statuses(cut)) == ([200] * 3, [200] * 3)
    assert echo.served == ["/a", "/a", "/last"] * 2
    assert whole.count(b"body=" + b"abc"[:length] + b"HTTP/1.1") == 2


async def test_a_connection_of_http_1_0_is_closed_after_its_response() -> None:
    async with served(Echo()) as address:
        assert statuses(await said(address, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", NEXT)) == [200]


async def test_a_head_without_an_end_is_not_gathered_for_ever() -> None:
    async with served(Echo()) as address:
        assert statuses(await said(address, b"GET / HTTP/1.1\r\nX: " + b"a" * LARGEST_HEAD)) == [431]
        assert statuses(await said(address, b"GET /" + b"a" * LARGEST_HEAD)) == [431]


async def test_what_was_asked_before_a_broken_request_is_answered_and_then_the_connection_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    broken = asyncio.Event()
    echo = Echo(lambda request: broken.wait() if request.url.path == "/first" else asyncio.Event().wait())
    async with connected(echo) as at:
        await at.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n" + NEXT)
        assert caplog.messages.count("http_not_valid") == 1
        await at.send(b"more nonsense\r\n\r\n")
        broken.set()
        answer = await at.reader.read()
    assert statuses(answer) == [200]
    assert echo.served == ["/first"]
    assert caplog.messages.count("http_not_valid") == 1  # once for the connection


async def test_of_requests_that_wait_for_one_another_a_few_are_answered_and_the_connection_closed() -> None:
    first = asyncio.Event()
    echo = Echo(lambda _: first.wait())
    async with connected(echo) as at:
        await at.send(NEXT * 1000)
        first.set()
        assert statuses(await at.reader.read()) == [200] * (1 + MOST_PIPELINED)
    assert len(echo.served) == 1 + MOST_PIPELINED


async def test_requests_that_are_sent_as_fast_as_they_are_answered_are_all_served() -> None:
    async with connected(Echo()) as at:
        for _ in range(20):
            await at.send(NEXT * MOST_PIPELINED)
            for _ in range(MOST_PIPELINED):
                head = await at.reader.readuntil(b"\r\n\r\n")
                assert statuses(head) == [200]
                await at.reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHos", b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /"])
async def test_a_connection_that_sends_no_whole_head_is_closed(sent: bytes) -> None:
    async with connected(Echo()) as at:
        whole = sent.partition(b"\r\n\r\n")[1]
        await at.send(sent)
        answer = await at.reader.readuntil(b"body=") if whole else b""
        await at.send(b"x" if whole else b"")  # a byte of the second head
        at.server.end_time()
        rest = await at.reader.read()
    assert statuses(answer + rest) == ([200] if whole else []) + ([408] if sent else [])


async def test_a_head_that_comes_byte_by_byte_has_no_longer_time() -> None:
    async with connected(Echo()) as at:
        ends_at = at.server.ends_at
        for byte in b"\r\nGET / HTTP/1.1\r\nHos":
            await at.send(bytes([byte]))
            assert at.server.ends_at == ends_at
        assert ends_at is not None
        at.server.end_time()
        assert statuses(await at.reader.read()) == [408]


async def test_the_time_to_send_a_head_runs_from_the_beginning_of_the_connection() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    async with connected(Echo()) as at:
        ends_at = at.server.ends_at
        assert ends_at is not None
        assert before <= ends_at - Timed.seconds_to_send <= loop.time()


async def test_a_body_that_was_refused_and_never_ends_closes_the_connection() -> None:
    async with connected(Echo()) as at:
        await at.send(b"POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\na")
        answer = await at.reader.readuntil(b"body=")
        at.server.end_time()
        assert statuses(answer + await at.reader.read()) == [200]


async def test_a_body_that_was_refused_and_ends_leaves_the_connection_open() -> None:
    async with connected(Echo()) as at:
        await at.send(b"POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        await at.reader.readuntil(b"body=")
        await at.send(b"b")
        at.server.end_time()
        await at.send(NEXT)
        assert statuses(await at.reader.readuntil(b"body=")) == [200]


async def test_a_body_takes_as_long_as_it_takes() -> None:
    async with connected(Echo()) as at:
        await at.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        assert at.server.ends_at is None


async def test_a_response_takes_as_long_as_it_takes() -> None:
    longer = asyncio.Event()
    async with connected(Echo(lambda _: longer.wait())) as at:
        await at.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert at.server.ends_at is None
        longer.set()
        assert statuses(await at.reader.read()) == [200]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + 2 * NEXT,
    ],
    ids=["no body", "a body that is not read yet", "pipelined"],
)
async def test_a_request_is_told_whether_its_client_is_gone(sent: bytes) -> None:
    arrived, is_over = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def wait(request: Request) -> None:
        if not arrived.done():
            arrived.set_result(request.scope[ARRIVAL])
        await is_over.wait()

    async with served(Echo(wait)) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        arrival: Arrival = await arrived
        assert not arrival.is_gone()
        writer.close()
        async with asyncio.timeout(20):
            while not arrival.is_gone():
                await checkpoint()
        is_over.set()


async def test_of_a_request_that_is_held_no_more_is_read_until_its_body_is_asked_for() -> None:
    arrived, goes_on = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def wait(request: Request) -> None:
        arrival: Arrival = request.scope[ARRIVAL]
        arrived.set_result((arrival, arrival.hold()))
        await goes_on.wait()

    async with connected(Echo(wait)) as at:
        at.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n")
        arrival, held = await arrived
        assert held == len(b"host" + b"a" + b"content-length" + b"50000")
        at.writer.write(b"a" * 50_000)
        for _ in range(100):
            await checkpoint()
        assert arrival.hold() == held
        goes_on.set()
        assert (await at.reader.readuntil(b"body=")).startswith(b"HTTP/1.1 200")
        assert await at.reader.readexactly(50_000) == b"a" * 50_000


class Written(asyncio.Transport):
    """Notes what is written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    @override
    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.pieces.append(b"".join(list_of_data))

    @override
    def close(self) -> None:
        self.pieces.append(b"closed")


async def test_a_head_leaves_with_what_follows_it_at_once() -> None:
    transport = Written()
    answer = WholeAnswers(transport, asyncio.get_running_loop())
    for part in (b"head ", b"body ", b"more "):
        answer.write(part)
    await checkpoint()
    assert transport.pieces == [b"head body ", b"more "]


async def test_a_head_that_nothing_follows_does_not_wait() -> None:
    transport = Written()
    answer = WholeAnswers(transport, asyncio.get_running_loop())
    answer.write(b"head ")
    assert transport.pieces == []
    await checkpoint()
    assert transport.pieces == [b"head "]
    answer.write(b"event ")
    assert transport.pieces == [b"head ", b"event "]
    last = WholeAnswers(transport, asyncio.get_running_loop())
    last.write(b"head ")
    last.close()
    await checkpoint()
    assert transport.pieces[2:] == [b"head ", b"closed"]


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    async with served(Echo()) as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"POST /waits HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert (await reader.readuntil(b"body=ab")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_heads_without_bodies_are_answered_in_their_order() -> None:
    asked = b"".join(b"%b /%d HTTP/1.1\r\nHost: a\r\n\r\n" % (b"HEAD" if n % 2 else b"GET", n) for n in range(6))
    async with served(Echo()) as address:
        answer = await said(address, asked, b"HEAD /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert statuses(answer) == [200] * 7
    assert [answer.find(b"path=/%d " % n) >= 0 for n in range(6)] == [True, False] * 3


async def test_a_part_of_the_next_head_has_time_until_the_response_is_complete() -> None:
    longer = asyncio.Event()
    async with connected(Echo(lambda _: longer.wait())) as at:
        await at.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        assert at.server.ends_at is None
        await at.send(b"GET /second HTTP/1.1\r\nHo")
        at.server.end_time()
        at.server.end_time()
        await at.send(b"st: a\r\nConnection: close\r\n\r\n")
        assert at.server.ends_at is None
        longer.set()
        assert statuses(await at.reader.read()) == [200, 200]


TRAILERS = [
    (b"Host: evil", 200),
    (b"Authorization: Bearer x", 200),
    (b"X-Forwarded-For: 1.2.3.4", 200),
    (b"Cookie: a=b", 200),
    (b"Expect: 100-continue", 200),
    (b"Content-Length: 5", 400),  # the parser takes it for framing
]


@pytest.mark.parametrize(("trailer", "status"), TRAILERS)
@pytest.mark.parametrize("before", [b"", b"X: y\r\n"])
async def test_a_trailer_never_becomes_a_header(trailer: bytes, status: int, before: bytes) -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def read(request: Request) -> None:
        with suppress(ClientDisconnect):
            await request.body()
        seen.append(list(request.scope["headers"]))

    sent = CHUNKED + b"\r\n3\r\nabc\r\n0\r\n" + before + trailer + b"\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with served(Echo(read)) as address:
        whole = await said(address, sent + last)
        cut = await said(address, *(bytes([byte]) for byte in sent + last))
    assert statuses(whole) == statuses(cut) == ([200, 200] if status == 200 else [400])
    head = [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
    assert [headers for headers in seen if (b"connection", b"close") not in headers] == [head] * 2


@pytest.mark.parametrize(
    "trailers",
    [
        b"X: " + b"a" * LARGEST_HEAD + b"\r\n\r\n",
        b"X: a\r\n" * (MOST_HEADERS + 1) + b"\r\n",
        (b"X: " + b"a" * 1000 + b"\r\n") * 40 + b"\r\n",
    ],
)
async def test_trailers_may_be_no_larger_than_a_head(trailers: bytes) -> None:
    echo = Echo()
    async with served(echo) as address:
        assert statuses(await said(address, CHUNKED + b"\r\n0\r\n" + trailers, NEXT)) == [431]
    assert "/next" not in echo.served


async def test_the_head_of_each_request_is_counted_alone() -> None:
    half = b"GET /large HTTP/1.1\r\nHost: a\r\nX-A: %b\r\n" % (b"a" * (LARGEST_HEAD // 2))
    async with served(Echo()) as address:
        answer = await said(address, half + b"\r\n", half + b"Connection: close\r\n\r\n")
    assert statuses(answer) == [200, 200]


async def test_the_trailers_of_each_request_are_counted_alone() -> None:
    sent = (CHUNKED + b"\r\n0\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 30 + b"\r\n") * 4
    async with served(Echo()) as address:
        last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert statuses(await said(address, sent + last)) == [200] * 5


@pytest.mark.parametrize("framing", [b"0\r\nX: ", b"3\r\nabc\r\n0\r\nX", b"3;x="])
async def test_a_trailer_or_an_extension_without_an_end_is_not_gathered_for_ever(framing: bytes) -> None:
    async with connected(Echo()) as at:
        await at.send(CHUNKED + b"\r\n" + framing)
        await at.send(b"a" * (LARGEST_HEAD + 1))
        assert statuses(await at.reader.read()) == [431]


async def test_a_body_of_many_small_chunks_may_have_more_framing_than_a_head() -> None:
    async with connected(Echo()) as at:
        await at.send(CHUNKED + b"Connection: close\r\n\r\n")
        for _ in range(4):
            await at.send(b"1;" + b"x" * (LARGEST_HEAD // 2) + b"\r\n")
            await at.send(b"a\r\n")
        await at.send(b"0\r\n\r\n")
        assert b"body=aaaa" in await at.reader.read()


async def test_trailers_that_do_not_end_have_the_time_of_a_head() -> None:
    async with connected(Echo()) as at:
        await at.send(CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX: a\r\nX: ")
        assert at.server.ends_at is not None
        at.server.end_time()
        assert statuses(await at.reader.read()) == [408]


async def test_the_framing_of_a_chunked_body_takes_as_long_as_the_body() -> None:
    longer = asyncio.Event()
    async with connected(Echo(lambda _: longer.wait())) as at:
        for sent in (CHUNKED + b"Connection: close\r\n\r\n", b"3\r\n", b"abc\r\n", b"0\r\n", b"\r\n"):
            await at.send(sent)
            assert at.server.ends_at is None
        longer.set()
        assert statuses(await at.reader.read()) == [200]


async def test_trailers_that_end_take_no_time_of_the_response() -> None:
    longer = asyncio.Event()
    async with connected(Echo(lambda _: longer.wait())) as at:
        await at.send(CHUNKED + b"Connection: close\r\n\r\n0\r\nX: a\r\n\r\n")
        assert at.server.ends_at is None
        longer.set()
        assert statuses(await at.reader.read()) == [200]


async def test_a_body_that_breaks_once_it_was_refused_is_answered_no_second_time() -> None:
    async with connected(Echo()) as at:
        await at.send(CHUNKED.replace(b"/", b"/refused", 1) + b"\r\n")
        answer = await at.reader.readuntil(b"body=")
        await at.send(b"nonsense\r\n")
        assert statuses(answer + await at.reader.read()) == [200]


async def test_white_space_around_a_value_is_no_part_of_it() -> None:
    seen: list[str] = []

    async def read(request: Request) -> None:
        seen.append(request.headers["x"])

    async with served(Echo(read)) as address:
        head = b"GET / HTTP/1.1\r\nHost: a \t\r\nX: \t one two \t \r\nConnection: close \r\n\r\n"
        assert statuses(await said(address, head)) == [200]
    assert seen == ["one two"]


async def test_a_body_that_breaks_is_answered_once_and_its_request_ends() -> None:
    ended: list[bool] = []

    async def read(request: Request) -> None:
        try:
            await request.body()
        finally:
            ended.append(True)

    async with served(Echo(read)) as address:
        assert statuses(await said(address, CHUNKED + b"\r\n3\r\nab", b"cXX\r\n")) == [400]
    assert ended == [True]


LENGTHS = st.sampled_from([b"0", b"3", b"+3", b"3,3", b"", b"\xb2", b"0x1", b"1_0", b" 3 "])
CODINGS = st.sampled_from([b"chunked", b"CHUNKED", b"gzip, chunked", b"identity", b"chunked, chunked", b""])
HEADERS = st.lists(
    st.one_of(
        st.tuples(st.just(b"content-length"), LENGTHS),
        st.tuples(st.just(b"transfer-encoding"), CODINGS),
        st.tuples(st.just(b"host"), st.sampled_from([b"a", b"b", b""])),
        st.tuples(st.just(b"x"), st.binary(max_size=3)),
    ),
    max_size=5,
)


@given(headers=HEADERS, version=st.sampled_from(["1.0", "1.1", "2.0", "0.9"]))
def test_a_request_that_passes_has_one_host_and_at_most_one_way_to_find_its_end(
    headers: list[tuple[bytes, bytes]], version: str
) -> None:
    """Whatever the HTTP server lets in."""
    refusal = framing_refusal({"type": "http", "http_version": version, "headers": headers})
    lengths = [value.strip() for name, value in headers if name == b"content-length"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    hosts = [value for name, value in headers if name == b"host"]
    is_sound = (
        version in {"1.0", "1.1"}
        and len(lengths) + len(codings) <= 1
        and all(length in {b"0", b"3"} for length in lengths)
        and all(coding == b"chunked" and version == "1.1" for coding in codings)
        and (len(hosts) == 1 or (version == "1.0" and not hosts))
    )
    assert (refusal is None) == is_sound
    if refusal is not None:
        assert (refusal.status in {400, 501, 505}, refusal.headers["connection"]) == (True, "close")
