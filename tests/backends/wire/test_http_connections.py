"""How long a connection to a provider lives: kept when all was read, and left at once when not."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from anyio.lowlevel import checkpoint
from typing_extensions import override

from agentapi_mcp.backends.wire.connections import kept_for
from agentapi_mcp.backends.wire.http import Body, Deadlines, HttpClient, HttpRequest, Reply
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.testing.waiting import expect_soon
from tests.support.certificates import Pair
from tests.support.http_asks import LONG, ask, get, post
from tests.support.sockets import Line, chunk, says, serving

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
WHOLE = CHUNKED + chunk(b"all") + b"0\r\n\r\n"


async def read_all(reply: Reply) -> None:
    """Read the body."""
    assert await reply.body() == b"all"


async def read_nothing(reply: Reply) -> None:
    """Look at the head alone."""
    assert reply.status == 200


async def drain(reply: Reply) -> None:
    """Read what says all, and then what is left."""
    async for piece in reply.chunks():
        assert piece == b"all"
        break
    await reply.drain()


@pytest.mark.parametrize("read", [read_all, drain])
async def test_a_connection_is_used_again_when_all_was_read(read: Callable[[Reply], Awaitable[None]]) -> None:
    async with serving(says(WHOLE)) as peer, HttpClient() as client:
        for _ in range(3):
            async with client.exchange(post(peer.origin)) as reply:
                await read(reply)
    assert (len(peer.heard), len(peer.lines)) == (3, 1)


async def test_requests_at_once_have_a_connection_each() -> None:
    together = asyncio.Barrier(120)

    async def script(line: Line) -> None:
        await line.hear()
        await together.wait()
        await line.say(WHOLE)

    async with serving(script) as peer, HttpClient() as client, asyncio.TaskGroup() as group:

        async def one() -> None:
            async with client.exchange(get(peer.origin)) as reply:
                await read_all(reply)

        for _ in range(120):
            group.create_task(one())
    assert len(peer.lines) == 120


async def test_a_reply_that_is_not_read_to_its_end_closes_its_connection() -> None:
    async def script(line: Line) -> None:
        await line.hear()
        await line.say(CHUNKED + chunk(b"all"))
        await line.end()

    async with serving(script) as peer, HttpClient() as client:
        async with client.exchange(get(peer.origin)) as reply:
            await read_nothing(reply)
        await expect_soon(peer.left.wait(), "the connection is closed")


# --- connections that the provider closes


class Blocking:
    """A server whose connections are closed while the loop does not see it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(20)
        self.tls = tls
        self.accepted: list[socket.socket] = []

    @property
    def origin(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def answer_one(self) -> None:
        """Accept a connection, and answer its first request."""
        connection, _ = self.listener.accept()
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True)
        self.accepted.append(connection)
        heard = b""
        while not heard.endswith(b"\r\n\r\n{}"):
            heard += connection.recv(65536)
        connection.sendall(WHOLE)

    def close_first(self) -> None:
        """Close the first connection."""
        self.accepted[0].close()

    def end_first(self) -> None:
        """Close the first connection, after the farewell of TLS."""
        first = self.accepted[0]
        first.settimeout(0)
        with suppress(OSError):  # nobody has answered it yet
            _ = cast("ssl.SSLSocket", first).unwrap()
        first.close()

    def close(self) -> None:
        """Close all that is open."""
        for connection in (self.listener, *self.accepted):
            connection.close()


@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"])
async def test_a_kept_connection_that_was_closed_in_between_is_not_used(last_words: bytes) -> None:
    with closing(Blocking()) as server:
        async with HttpClient() as client:
            for _ in range(2):
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.to_thread(server.answer_one))
                    async with client.exchange(post(server.origin)) as reply:
                        await read_all(reply)
                server.accepted[-1].sendall(last_words)
                server.accepted[-1].close()  # and the loop gets no turn before the next request
    assert len(server.accepted) == 2


class Late(Body):
    """A body that is taken when the connection has been looked at: what `then` does comes just before the request."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__(lambda: b"{}")
        self.then: list[Callable[[], object]] = [then]

    @override
    def take(self) -> bytes:
        for then in self.then:
            then()
        self.then.clear()
        return super().take()


TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was acknowledged")
@pytest.mark.parametrize("last_words", [b"", TIMED_OUT])
async def test_a_request_that_meets_a_closing_connection_is_sent_once_more(last_words: bytes) -> None:
    with closing(Blocking()) as server:

        def close() -> None:
            server.accepted[0].sendall(last_words)
            server.accepted[0].close()

        async with HttpClient() as client:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(server.answer_one))
                async with client.exchange(post(server.origin)) as reply:
                    await read_all(reply)
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(server.answer_one))
                async with client.exchange(replace(post(server.origin), content=Late(close))) as reply:
                    await read_all(reply)
    assert len(server.accepted) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was acknowledged")
@pytest.mark.parametrize("end", [Blocking.close_first, Blocking.end_first])
async def test_a_request_that_meets_a_closing_connection_of_tls_is_sent_once_more(
    end: Callable[[Blocking], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Pair.make().write(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*files)
    with closing(Blocking(tls)) as server:
        async with HttpClient() as client:
            for content in (Body(lambda: b"{}"), Late(partial(end, server))):
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.to_thread(server.answer_one))
                    request = replace(post(server.origin.replace("http:", "https:")), content=content)
                    async with client.exchange(request) as reply:
                        await read_all(reply)
    assert len(server.accepted) == 2


def ends(line: Line) -> None:
    """End the connection."""
    line.writer.close()


@pytest.mark.parametrize("end", [Line.reset, ends])
@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 2"])
async def test_a_request_that_a_kept_connection_took_is_not_sent_again(
    end: Callable[[Line], object], last_words: bytes
) -> None:
    async def script(line: Line) -> None:
        await line.hear()
        await line.say(WHOLE)
        await line.hear()
        await line.say(last_words)
        end(line)

    async with serving(script) as peer, HttpClient() as client:
        async with client.exchange(post(peer.origin)) as reply:
            await read_all(reply)
        with pytest.raises(BackendError) as caught:
            async with client.exchange(post(peer.origin)):
                pass
    assert caught.value.fault is BackendFault.CONNECTION
    assert (len(peer.heard), len(peer.lines)) == (2, 1)


async def test_the_answer_of_a_provider_that_heard_is_an_answer_whatever_it_says() -> None:
    async def script(line: Line) -> None:
        await line.hear()
        await line.say(WHOLE)
        await line.hear()
        await line.say(TIMED_OUT)

    async with serving(script) as peer, HttpClient() as client:
        for status in (200, 408):
            async with client.exchange(post(peer.origin)) as reply:
                assert reply.status == status
                await reply.body()
    assert (len(peer.heard), len(peer.lines)) == (2, 1)


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (None, 4),
        ("", 4),
        ("max=100", 4),
        ("timeout=5", 4),
        ("timeout=5, max=1000", 4),
        ("max=5; Timeout = 20", 19),
        ('timeout="60"', 30),
        ("timeout=0", -1),
        ("timeout=1", 0),
        ("timeout=-3", 4),
        ("timeout=soon", 4),
        ("timeout=99999999999999999999", 30),
    ],
)
def test_a_connection_is_kept_for_less_than_the_provider_keeps_it(keep_alive: str | None, seconds: float) -> None:
    assert kept_for(keep_alive) == seconds


@pytest.mark.parametrize(("keep_alive", "lines"), [(b"timeout=1", 3), (b"timeout=75", 1)])
async def test_a_connection_is_left_in_time_when_the_provider_says_how_long_it_is_kept(
    keep_alive: bytes, lines: int
) -> None:
    whole = OK + b"keep-alive: " + keep_alive + b"\r\ncontent-length: 3\r\n\r\nall"
    async with serving(says(whole)) as peer, HttpClient() as client:
        for _ in range(3):
            async with client.exchange(post(peer.origin)) as reply:
                await read_all(reply)
    assert (len(peer.heard), len(peer.lines)) == (3, lines)


async def test_what_a_provider_says_unasked_is_not_taken_for_the_next_reply() -> None:
    async def script(line: Line) -> None:
        for number in (b"1", b"2"):
            await line.hear()
            await line.say(OK + b"content-length: 1\r\n\r\n" + number)
            await line.peer.go_on.wait()
            await line.say(OK + b"content-length: 7\r\n\r\nunasked")
            line.peer.left.set()

    async with serving(script) as peer, HttpClient() as client:
        async with client.exchange(get(peer.origin)) as reply:
            assert await reply.body() == b"1"
        peer.go_on.set()
        await peer.left.wait()
        for _ in range(20):  # until the client's side has heard it
            await checkpoint()
        async with client.exchange(get(peer.origin)) as reply:
            assert await reply.body() == b"1"
    assert len(peer.lines) == 2


async def test_a_request_that_was_sent_is_not_sent_again() -> None:
    async def script(line: Line) -> None:
        await line.hear()
        await line.say(WHOLE)
        await line.hear()  # and it closes the connection

    async with serving(script) as peer, HttpClient() as client:
        async with client.exchange(get(peer.origin)) as reply:
            await read_all(reply)
        with pytest.raises(BackendError) as caught:
            async with client.exchange(get(peer.origin)):
                pass
    assert caught.value.fault is BackendFault.CONNECTION
    assert len(peer.heard) == 2


async def test_a_reply_that_comes_before_all_was_read_is_a_reply() -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
        line.writer.transport.abort()

    request_of = partial(post, content=bytes(30_000_000))
    async with serving(script) as peer, HttpClient() as client, client.exchange(request_of(peer.origin)) as reply:
        assert (reply.status, await reply.body()) == (413, b"no")


# --- turns that are cancelled


async def cancel(request: HttpRequest, ready: Callable[[], Awaitable[object]], left: Awaitable[object]) -> None:
    """Ask, cancel the request when it is ready for that, and wait until the provider sees it."""
    async with HttpClient() as client:

        async def work() -> None:
            async with client.exchange(request) as reply:
                await reply.body()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(work())
            await ready()
            task.cancel()
        await expect_soon(left, "the provider is left")


async def begins(line: Line) -> None:
    """Begin an answer."""
    await line.hear()
    await line.say(CHUNKED, chunk(b"one"))
    line.peer.go_on.set()
    await line.end()


async def hears(line: Line) -> None:
    """Hear a request, and say nothing."""
    await line.hear()
    line.peer.go_on.set()
    await line.end()


@pytest.mark.parametrize("script", [begins, hears])
async def test_a_turn_that_is_cancelled_leaves_its_provider(script: Callable[[Line], Awaitable[None]]) -> None:
    async with serving(script) as peer:
        await cancel(post(peer.origin), peer.go_on.wait, peer.left.wait())
        assert peer.left.is_set()


async def test_a_provider_that_takes_nothing_is_left_as_well() -> None:
    loop = asyncio.get_running_loop()
    size = 20_000_000
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(0)
        accepted: list[socket.socket] = []

        async def accept() -> None:
            accepted.append((await loop.sock_accept(listener))[0])
            await loop.sock_recv(accepted[0], 1)

        async def read() -> None:
            nonlocal size
            with closing(accepted[0]) as connection:
                while data := await loop.sock_recv(connection, 1 << 20):
                    size -= len(data)

        await cancel(post(f"http://127.0.0.1:{listener.getsockname()[1]}", bytes(size)), accept, read())
    assert size > 0  # the rest was not sent after all, as soon as the provider took it


async def test_a_provider_that_answers_no_farewell_is_left_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Pair.make().write(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*files)

    async def deafen(line: Line) -> None:
        """Hand on all bytes until the answer has begun, and then nothing more to the provider."""
        reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)

        async def answer() -> None:
            while data := await reader.read(65536):
                await line.say(data)

        with closing(writer):
            async with asyncio.TaskGroup() as group:
                answers = group.create_task(answer())
                while (data := await line.reader.read(65536)) and not line.peer.go_on.is_set():
                    writer.write(data)
                await line.end()
                answers.cancel()

    async with serving(begins, tls=tls) as peer, serving(deafen) as wire, HttpClient() as client:
        async with client.exchange(post(wire.secure)) as reply:
            async for _ in reply.chunks():
                wire.go_on.set()
                break
        await expect_soon(wire.left.wait(), "the connection is closed")


# --- a provider that is faster than its reader


async def test_a_fast_provider_has_to_wait() -> None:
    async def script(line: Line) -> None:
        await line.hear()
        line.writer.write(OK + b"content-length: 30000000\r\n\r\n" + bytes(30_000_000))
        line.peer.go_on.set()
        await line.end()

    async with serving(script) as peer, HttpClient() as client, client.exchange(get(peer.origin)) as reply:
        await peer.go_on.wait()
        for _ in range(2000):
            await checkpoint()
        assert peer.lines[0].writer.transport.get_write_buffer_size() > 0
        assert len(await reply.body()) == 30_000_000


async def test_connections_are_opened_anew_after_the_client_was_closed() -> None:
    client = HttpClient()
    async with serving(says(WHOLE)) as peer:
        for _ in range(2):
            async with client, client.exchange(get(peer.origin)) as reply:
                await read_all(reply)
    assert len(peer.lines) == 2


def test_a_body_is_made_when_it_is_needed_and_let_go_when_it_is_taken() -> None:
    made: list[bytes] = []

    def make() -> bytes:
        made.append(b"{}")
        return made[-1]

    body = Body(make)
    assert made == []
    assert (body.size, body.size, body.take(), len(made)) == (2, 2, b"{}", 1)
    assert (body.take(), len(made)) == (b"{}", 2)


async def test_the_deadline_of_a_connection_does_not_bound_the_answer() -> None:
    deadlines = Deadlines(connect=timedelta(seconds=0.2), idle=LONG.idle, total=LONG.total)

    async def script(line: Line) -> None:
        await line.hear()
        await line.peer.go_on.wait()
        await line.say(WHOLE)

    async with serving(script) as peer:
        asyncio.get_running_loop().call_later(0.5, peer.go_on.set)
        assert await ask(get(peer.origin, deadlines=deadlines)) == b"all"
