"""What goes over the wire to a provider, and what is made of whatever it answers."""

import gzip
import socket
import zlib
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta

import pytest

from agentapi_mcp.backends.wire.http import Deadlines, HttpClient, HttpRequest, Reply
from agentapi_mcp.base.errors import BackendError, BackendFault
from tests.support.http_asks import LONG, ask, fail, get, post
from tests.support.sockets import Line, Peer, chunk, says, says_last, serving

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
EMPTY = OK + b"content-length: 0\r\n\r\n"
BAD_URL = (BackendFault.BAD_REQUEST, "The base URL is not a valid URL.")
NOT_HTTP = (BackendFault.BAD_REQUEST, "The base URL is not one of HTTP.")
UNKNOWN_HOST = (BackendFault.CONNECTION, "The provider has a host name that cannot be resolved.")
REFUSED = (BackendFault.CONNECTION, "The provider refused the connection.")
NO_ANSWER = (BackendFault.CONNECTION, "The provider closed the connection without an answer.")
CUT = (BackendFault.STREAM_CUT, "The connection broke in mid-answer.")
NO_HTTP = (BackendFault.BAD_REPLY, "The provider does not answer in HTTP/1.1.")
TWO_LENGTHS = (
    BackendFault.BAD_REPLY,
    (
        "The reply of the provider gives its length twice, by Content-Length or beside Transfer-Encoding, "
        "which is refused (RFC 9112, section 6.3)."
    ),
)
NO_NUMBER = (BackendFault.BAD_REPLY, "The reply of the provider has a Content-Length that is no number.")
TOO_LONG = (BackendFault.BAD_REPLY, "The reply of the provider has a header of more than 102,400 bytes.")
TOO_MANY = (BackendFault.BAD_REPLY, "The reply of the provider has more than 300 headers.")
INTERIM = (
    BackendFault.BAD_REPLY,
    "The provider sent more than 100 interim replies, such as 102 Processing, and no other.",
)
TLS = (BackendFault.BAD_REPLY, "The provider speaks TLS at this port: its URL begins with https://.")
UNDONE = (BackendFault.BAD_REPLY, "The provider's reply could not be decompressed.")
SOON = timedelta(seconds=0.1)

# --- the request


async def test_a_request_has_these_headers_and_no_others() -> None:
    async with serving(says(EMPTY)) as peer:
        await ask(post(f"{peer.origin}/v1/turn"))
        await ask(get(f"{peer.origin}/v1/models"))
    ours = b"accept: */*\r\naccept-encoding: gzip, deflate\r\nconnection: keep-alive\r\nuser-agent: agentapi-mcp\r\n"
    host = b"host: 127.0.0.1:%d\r\n" % peer.port
    theirs = b"content-type: application/json\r\nAuthorization: Bearer x\r\ncontent-length: 2\r\n"
    assert peer.heard == [
        b"POST /v1/turn HTTP/1.1\r\n" + host + ours + theirs + b"\r\n{}",
        b"GET /v1/models HTTP/1.1\r\n" + host + ours + b"\r\n",
    ]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("", "/"),
        ("?a=b", "/?a=b"),
        ("/x#fragment", "/x"),
        ("/a%2Fb/%41%e2%82%ac/%zz", "/a%2Fb/%41%e2%82%ac/%zz"),
        ("/é ü", "/%C3%A9%20%C3%BC"),
        ("/x?q=a b&c=%20é+&d=[1]&e={}", "/x?q=a%20b&c=%20%C3%A9+&d=[1]&e={}"),
        ('/{id}/|`^\\"<>', "/%7Bid%7D/|%60^\\%22%3C%3E"),
        ("/a//b;x=1:y@z!$&'()*+,=-._~", "/a//b;x=1:y@z!$&'()*+,=-._~"),
        ("/a/../b/./c", "/b/c"),
        ("/..", "/"),
        ("/a/..", "/"),
    ],
)
async def test_an_address_is_sent_as_it_is_written(written: str, sent: str) -> None:
    async with serving(says(EMPTY)) as peer:
        await ask(get(peer.origin + written))
    assert peer.heard[0].split(b" ")[1] == sent.encode()


@pytest.mark.parametrize("login", ["user:pass@", "user@", "user:p%40ss@"])
async def test_a_name_and_password_in_an_address_are_not_sent(login: str) -> None:
    async with serving(says(EMPTY)) as peer:
        await ask(get(peer.origin.replace("//", f"//{login}")))
        await ask(get(peer.origin.replace("//", f"//{login}"), {"authorization": "Bearer x"}))
    assert [b"user" in heard.partition(b"user-agent")[2] for heard in peer.heard] == [False, False]
    assert [heard.lower().count(b"authorization") for heard in peer.heard] == [0, 1]


async def test_a_host_may_be_an_address_of_version_6() -> None:
    async with serving(says(EMPTY), host="::1") as peer:
        await ask(get(f"HTTP://[::1]:{peer.port}/x"))
    assert f"host: [::1]:{peer.port}\r\n".encode() in peer.heard[0]


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", NOT_HTTP),
        ("x", NOT_HTTP),
        ("ftp://x/", NOT_HTTP),
        ("http://", BAD_URL),
        ("http:x", BAD_URL),
        ("http:///x", BAD_URL),
        ("http://h:ab/", BAD_URL),
        ("http://h:99999/", BAD_URL),
        ("http://[::g]/", BAD_URL),
        ("http://256.1.1.1/", BAD_URL),
        ("http://h\n/", BAD_URL),
        ("http://a b/", BAD_URL),
        ("http://h/" + "x" * 70_000, BAD_URL),
        ("http://nobody.invalid/", UNKNOWN_HOST),
        ("http://bücher.invalid/", UNKNOWN_HOST),
        ("http://a..invalid/", UNKNOWN_HOST),
        (f"http://{'a' * 64}.invalid/", UNKNOWN_HOST),
        ("http://127.0.0.1:1/", REFUSED),
        ("https://127.0.0.1:1/", REFUSED),
    ],
)
async def test_an_address_that_leads_nowhere_is_told(url: str, fault: tuple[BackendFault, str]) -> None:
    assert await fail(get(url)) == fault


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("x", value) for value in ("a\nb", "a\r\nb: c", " a", "a ", "é", "\ud800", "\x01", "a\x7f", "a\x00")],
        *[(name, "a") for name in ("", "a b", "é", "a:", "a\n")],
        *[("Content-Length", "7"), ("transfer-encoding", "chunked")],
    ],
)
async def test_a_header_that_cannot_be_sent_is_told(name: str, value: str) -> None:
    async with serving(says(EMPTY)) as peer:
        told = await fail(get(peer.origin, {name: value}))
    assert told == (BackendFault.BAD_REQUEST, "The request is not valid HTTP; check its headers.")
    assert peer.heard == []


async def test_credentials_of_the_machine_are_not_used(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("default login user password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with serving(says(EMPTY)) as peer:
        await ask(get(peer.origin))
    assert b"authorization" not in peer.heard[0].lower()


async def test_a_cookie_is_not_kept_and_a_redirect_not_followed() -> None:
    async with (
        serving(says(b"HTTP/1.1 307 No\r\nset-cookie: a=b\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n")) as peer,
        HttpClient() as client,
    ):
        for _ in range(2):
            async with client.exchange(get(f"http://localhost:{peer.port}/x")) as reply:
                assert reply.status == 307
    assert [heard.split(b" ")[1] for heard in peer.heard] == [b"/x", b"/x"]
    assert b"cookie" not in peer.heard[1].lower()


# --- replies that are read


@pytest.mark.parametrize(
    ("parts", "body"),
    [
        (
            (
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 103 Early\r\nx: y\r\n\r\n",
                CHUNKED + b"2\r\nhi\r\n0\r\n\r\n",
            ),
            b"hi",
        ),
        ((OK + b"\r\nuntil the end",), b"until the end"),
        ((b"HTTP/1.0 200 OK\r\n\r\nold",), b"old"),
        ((b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi",), b"hi"),
        ((b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",), b"hi"),
        ((OK + b"x: a\r\n b\r\ncontent-length: 2\r\n\r\nhi",), b"hi"),
        ((OK + b"x: " + b"y" * 90_000 + b"\r\ncontent-length: 2\r\n\r\nhi",), b"hi"),
        ((OK + b"x: y\r\n" * 250 + b"content-length: 2\r\n\r\nhi",), b"hi"),
        ((CHUNKED, chunk(b"a"), b"1;x=y\r\nb\r\n", b"0\r\nx: y\r\n\r\n"), b"ab"),
    ],
)
async def test_a_reply_is_read_in_any_form_that_http_has(parts: tuple[bytes, ...], body: bytes) -> None:
    async with serving(says_last(*parts)) as peer:
        assert await ask(get(peer.origin)) == body


async def test_headers_are_text_whatever_they_are_encoded_in() -> None:
    head = OK + b"x-one: caf\xe9\r\nX-Two: caf\xc3\xa9\r\ncontent-length: 0\r\n\r\n"
    async with serving(says(head)) as peer, HttpClient() as client, client.exchange(get(peer.origin)) as reply:
        assert (reply.headers["X-ONE"], reply.headers.get("x-two")) == ("café", "café")


GZIP = gzip.compress(b"hello" * 1000, mtime=0)
DEFLATE = zlib.compress(b"hello" * 1000)
RAW = zlib.compress(b"hello" * 1000, wbits=-15)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", GZIP),
        (b"GZip", GZIP),
        (b"deflate", DEFLATE),
        (b"deflate", RAW),
        (b"deflate, gzip", gzip.compress(DEFLATE, mtime=0)),
        (b"identity", b"hello" * 1000),
        (b"br", b"hello" * 1000),
    ],
    ids=["gzip", "upper case", "deflate", "raw deflate", "two", "none", "not asked for"],
)
async def test_a_compressed_reply_is_decompressed(coding: bytes, body: bytes) -> None:
    head = OK + b"content-encoding: " + coding + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = [chunk(body[start : start + 7]) for start in range(0, len(body), 7)]
    async with serving(says_last(head, *parts, b"0\r\n\r\n")) as peer:
        assert await ask(get(peer.origin)) == b"hello" * 1000


async def test_a_small_reply_cannot_expand_without_limit() -> None:
    bomb = gzip.compress(bytes(40_000_000))
    head = OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with serving(says(head + bomb)) as peer:
        assert await fail(get(peer.origin)) == (BackendFault.BAD_REPLY, "The provider's reply is too large.")


# --- replies that are not


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (b"", NO_ANSWER),
        (b"garbage\r\n\r\n", NO_HTTP),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NO_HTTP),
        (b"HTTP/1.1 two OK\r\n\r\n", NO_HTTP),
        (b"HTTP/2 200 OK\r\n\r\n", NO_HTTP),
        (b"\x15\x03\x03\x00\x02\x02\x46", TLS),
        (OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nhi", TWO_LENGTHS),
        (CHUNKED[:-2] + b"content-length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n", TWO_LENGTHS),
        (OK + b"content-length: 2\r\n" + CHUNKED.removeprefix(OK) + b"2\r\nhi\r\n0\r\n\r\n", TWO_LENGTHS),
        (OK + b"x: y\r\n" * 400 + b"\r\n", TOO_MANY),
        (OK, NO_ANSWER),
        (OK + b"x y\r\n\r\n", NO_HTTP),
        (OK + b"content-length: x\r\n\r\n", NO_NUMBER),
        (OK + b"x: " + b"y" * 200_000 + b"\r\n\r\n", TOO_LONG),
        (b"HTTP/1.1 100 Continue\r\n\r\n", NO_ANSWER),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 100, NO_ANSWER),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 101, INTERIM),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 50_000, INTERIM),
        (OK + b"content-length: 9\r\n\r\nhalf", CUT),
        (CHUNKED + chunk(b"one") + b"5\r\ntw", CUT),
        (CHUNKED + chunk(b"one"), CUT),
        (OK + b"content-encoding: gzip\r\n\r\n{}", UNDONE),
        (OK + b"content-encoding: deflate\r\n\r\n\xff\xff\xff", UNDONE),
        (OK + b"content-encoding: gzip, gzip, gzip, gzip, gzip, gzip\r\n\r\n{}", UNDONE),
    ],
)
async def test_what_is_no_reply_is_told(reply: bytes, fault: tuple[BackendFault, str]) -> None:
    async with serving(says_last(reply)) as peer:
        assert await fail(post(peer.origin)) == fault
    assert len(peer.heard) == 1


@pytest.mark.parametrize("request_of", [get, post])
async def test_a_connection_that_is_reset_is_told_and_nothing_is_asked_again(
    request_of: Callable[[str], HttpRequest],
) -> None:
    async def script(line: Line) -> None:
        await line.hear()
        line.reset()

    async with serving(script) as peer:
        assert await fail(request_of(peer.origin)) == NO_ANSWER
    assert len(peer.lines) == 1


async def cut_after_the_first_piece(peer: Peer) -> bool:
    """Read, let the peer go on when something has come, and see the reply cut."""
    async with HttpClient() as client, client.exchange(get(peer.origin)) as reply:
        with pytest.raises(BackendError, match=f"^{CUT[1]}$") as caught:
            await let_go_on(reply, peer)
    return caught.value.fault is CUT[0]


async def let_go_on(reply: Reply, peer: Peer) -> None:
    """Read all, and let the peer go on with every piece."""
    async for _ in reply.chunks():
        peer.go_on.set()


@pytest.mark.parametrize("head", [CHUNKED, OK + b"content-length: 99\r\n\r\n", OK + b"\r\n"])
async def test_a_reply_that_is_reset_is_cut(head: bytes) -> None:
    async def script(line: Line) -> None:
        await line.hear()
        await line.say(head + b"3\r\none\r\n")
        await line.peer.go_on.wait()
        line.reset()

    async with serving(script) as peer:
        assert await cut_after_the_first_piece(peer)


@pytest.mark.parametrize("wrong", [b"zz\r\n", b"3\r\nlong\r\n", b"-1\r\n", b"\x00"])
async def test_a_wrong_chunk_ends_the_reply_at_once(wrong: bytes) -> None:
    async def script(line: Line) -> None:
        await line.hear()
        await line.say(CHUNKED, chunk(b"one"))
        await line.peer.go_on.wait()
        await line.say(wrong)
        await line.end()

    async with serving(script) as peer:
        assert await cut_after_the_first_piece(peer)


@pytest.mark.parametrize("end", [b"", b"zz\r\n"])
async def test_what_came_before_a_cut_is_read_however_late(end: bytes) -> None:
    async def script(line: Line) -> None:
        await line.hear()
        await line.say(CHUNKED, chunk(b"one"))
        await line.peer.go_on.wait()
        await line.say(chunk(b"two"), chunk(b"three"), end)
        if not end:
            line.writer.close()
        await line.end()

    got: list[bytes] = []

    async def read(reply: Reply) -> None:
        async for piece in reply.chunks():
            got.append(piece)
            peer.go_on.set()
            await peer.left.wait()

    async with serving(script) as peer, HttpClient() as client, client.exchange(get(peer.origin)) as reply:
        with pytest.raises(BackendError, match=f"^{CUT[1]}$"):
            await read(reply)
    assert b"".join(got) == b"onetwothree"


# --- deadlines


async def hang(line: Line) -> None:
    """Answer nothing."""
    await line.hear()
    await line.end()


async def test_the_first_byte_has_the_idle_deadline_or_the_total_one() -> None:
    idle = Deadlines(connect=LONG.connect, idle=SOON, total=LONG.total)
    total = Deadlines(connect=LONG.connect, idle=SOON, total=SOON * 2)
    async with serving(hang) as peer:
        silent = (BackendFault.TIMEOUT_IDLE, "The agent said nothing for 0.1 s.")
        assert await fail(post(peer.origin, deadlines=idle)) == silent
        late = (BackendFault.TIMEOUT_TOTAL, "The agent did not finish in time.")
        assert await fail(post(peer.origin, deadlines=total, waits_for_all=True)) == late


async def test_every_piece_has_the_idle_deadline() -> None:
    async def script(line: Line) -> None:
        await line.hear()
        await line.say(CHUNKED, chunk(b"one"))
        await line.end()

    deadlines = Deadlines(connect=LONG.connect, idle=SOON, total=LONG.total)
    async with serving(script) as peer:
        assert (await fail(get(peer.origin, deadlines=deadlines)))[0] is BackendFault.TIMEOUT_IDLE
        await peer.left.wait()


async def test_a_connection_that_is_not_accepted_in_time_is_told() -> None:
    deadlines = Deadlines(connect=SOON, idle=LONG.idle, total=LONG.total)
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # the queue is full: the kernel drops what comes after
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
        told = await fail(get(f"http://127.0.0.1:{listener.getsockname()[1]}", deadlines=deadlines))
        for filler in fillers:
            filler.close()
    assert told == (BackendFault.TIMEOUT_CONNECT, "The provider did not accept a connection in time.")
