"""Whom a request to a provider trusts, and which proxy it goes through."""

import base64
import hashlib
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from agentapi_mcp.backends.wire.http import Deadlines, HttpClient
from agentapi_mcp.base.errors import BackendFault
from tests.support.certificates import Pair
from tests.support.http_asks import LONG, ask, fail, get, post
from tests.support.sockets import Line, relaying, says, says_last, serving

ALL = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nall"
UNTRUSTED = (BackendFault.CONNECTION, "The provider's certificate is not trusted.")
NO_TLS = (BackendFault.CONNECTION, "The provider does not speak TLS as expected.")
REFUSED = (BackendFault.CONNECTION, "The provider refused the connection.")
NO_ANSWER = (BackendFault.CONNECTION, "The provider closed the connection without an answer.")
PROXY_REFUSED = (BackendFault.CONNECTION, "The proxy refused to connect to the provider.")
TOO_LATE = (BackendFault.TIMEOUT_CONNECT, "The provider did not accept a connection in time.")
LOGIN = b"Basic " + base64.b64encode("us:er:p@ß".encode())


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return what a server needs whom this machine trusts."""
    chain, key = Pair.make().write(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    return context


async def test_a_server_of_a_trusted_file_is_trusted(tls: ssl.SSLContext) -> None:
    async with serving(says(ALL), tls=tls) as peer, HttpClient() as client:
        for host in ("127.0.0.1", "localhost", "127.0.0.1"):
            async with client.exchange(post(f"https://{host}:{peer.port}/x")) as reply:
                assert await reply.body() == b"all"
    assert len(peer.lines) == 2
    assert peer.heard[0].startswith(b"POST /x HTTP/1.1\r\n")


async def test_a_server_of_a_trusted_directory_is_trusted(
    tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = tmp_path / "cert.pem"
    name = x509.load_pem_x509_certificate(chain.read_bytes()).subject.public_bytes()
    # As OpenSSL looks for it; of a name in lower case, the canonical form is the name without its outer header.
    digest = hashlib.sha1(name[2:], usedforsecurity=False).digest()
    chain.rename(tmp_path / f"{int.from_bytes(digest[:4], 'little'):08x}.0")
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    async with serving(says(ALL), tls=tls) as peer:
        assert await ask(get(peer.secure)) == b"all"


async def test_a_server_that_nobody_knows_is_not_trusted(
    tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(Pair.make().pem)
    async with serving(says(ALL), tls=tls) as peer:
        assert await fail(get(f"https://127.0.0.2:{peer.port}")) == REFUSED
        monkeypatch.setenv("SSL_CERT_FILE", str(other))
        assert await fail(get(peer.secure)) == UNTRUSTED
    assert peer.heard == []


async def test_a_server_of_another_name_is_not_trusted(tls: ssl.SSLContext) -> None:
    async with serving(says(ALL), tls=tls, host="127.0.0.2") as peer:
        assert await fail(get(f"https://127.0.0.2:{peer.port}")) == UNTRUSTED


async def ends(line: Line) -> None:
    """Hang up at once."""
    line.writer.close()


async def test_a_server_that_speaks_something_else_is_told(tls: ssl.SSLContext) -> None:
    async def plain(line: Line) -> None:
        await line.reader.read(1)
        await line.say(b"HTTP/1.1 400 Bad\r\n\r\n")

    async with serving(plain) as peer:
        assert await fail(get(peer.secure)) == NO_TLS
    async with serving(ends) as peer:
        assert await fail(get(peer.secure)) == NO_TLS
    async with serving(says(ALL), tls=tls) as peer:
        assert await fail(get(peer.origin)) == NO_ANSWER


async def hangs(line: Line) -> None:
    """Accept a connection, and say nothing."""
    await line.end()


async def test_a_connection_is_there_when_tls_and_the_proxy_have_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines = Deadlines(connect=timedelta(seconds=0.1), idle=LONG.idle, total=LONG.total)
    async with serving(hangs) as peer:
        assert await fail(get(peer.secure, deadlines=deadlines)) == TOO_LATE
        await peer.left.wait()
    async with serving(hangs) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        assert await fail(get("https://provider.example/x", deadlines=deadlines)) == TOO_LATE
        await proxy.left.wait()


# --- proxies


async def test_a_proxy_is_asked_for_the_whole_address_with_its_own_login(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(says(ALL)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin.replace("//", "//us%3Aer:p%40%C3%9F@"))
        async with HttpClient() as client:
            for path in ("a%2Fb?c=%20d", "x"):
                async with client.exchange(post(f"http://provider.example:81/{path}")) as reply:
                    assert await reply.body() == b"all"
    assert len(proxy.lines) == 1
    assert [heard.split(b"\r\n")[0] for heard in proxy.heard] == [
        b"POST http://provider.example:81/a%2Fb?c=%20d HTTP/1.1",
        b"POST http://provider.example:81/x HTTP/1.1",
    ]
    for heard in proxy.heard:
        assert b"\r\nhost: provider.example:81\r\n" in heard
        assert b"\r\nproxy-authorization: " + LOGIN + b"\r\n" in heard
        assert b"\r\nAuthorization: Bearer x\r\n" in heard


async def test_a_proxy_is_told_where_to_connect_and_nothing_of_the_request(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(says(ALL), tls=tls) as peer, serving(relaying(peer.port)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin.replace("//", "//us%3Aer:p%40%C3%9F@"))
        async with HttpClient() as client:
            for _ in range(2):
                async with client.exchange(post(f"https://localhost:{peer.port}/x")) as reply:
                    assert await reply.body() == b"all"
        (connect,) = proxy.heard
    line, *fields = connect.rstrip(b"\r\n").split(b"\r\n")
    assert line == b"CONNECT localhost:%d HTTP/1.1" % peer.port
    assert {name.lower(): value for name, _, value in (field.partition(b": ") for field in fields)} == {
        b"host": b"localhost:%d" % peer.port,
        b"accept": b"*/*",
        b"accept-encoding": b"identity",
        b"user-agent": b"agentapi-mcp",
        b"proxy-authorization": LOGIN,
    }
    assert [b"proxy" in heard for heard in peer.heard] == [False, False]
    assert peer.heard[0].startswith(b"POST /x HTTP/1.1\r\n")


async def test_a_proxy_may_be_reached_by_tls(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(says(ALL), tls=tls) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"https://us:er@localhost:{proxy.port}")
        assert await ask(get("http://provider.example/x")) == b"all"
    assert proxy.heard[0].startswith(b"GET http://provider.example/x HTTP/1.1\r\n")
    async with serving(says(ALL), tls=tls) as peer, serving(relaying(peer.port), tls=tls) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://us:er@localhost:{proxy.port}")
        assert await ask(get(f"https://localhost:{peer.port}/x")) == b"all"
        assert proxy.heard[0].startswith(b"CONNECT localhost:")


async def refuses(line: Line) -> None:
    """Ask for a login."""
    await says_last(b"HTTP/1.1 407 Login\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n")(line)


async def fails(line: Line) -> None:
    """Tell that there is no way."""
    await says_last(b"HTTP/1.1 502 No\r\ncontent-length: 2\r\n\r\nno")(line)


async def raves(line: Line) -> None:
    """Say something else."""
    await says_last(b"what?\r\n\r\n")(line)


@pytest.mark.parametrize(
    ("script", "fault"), [(refuses, PROXY_REFUSED), (fails, PROXY_REFUSED), (raves, NO_ANSWER), (ends, NO_ANSWER)]
)
async def test_a_proxy_that_does_not_connect_is_told(
    script: Callable[[Line], Awaitable[None]], fault: tuple[BackendFault, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(script) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        assert await fail(get("https://provider.example/x")) == fault
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        assert await fail(get("https://provider.example/x")) == REFUSED


async def test_a_proxy_that_wants_a_login_is_a_reply_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(refuses) as proxy, HttpClient() as client:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        async with client.exchange(get("http://provider.example/x")) as reply:
            assert reply.status == 407


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://127.0.0.1:9", "http://"])
async def test_a_proxy_that_is_not_one_of_http_is_told(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    told = await fail(get("http://provider.example/x"))
    assert told == (BackendFault.BAD_REQUEST, "The proxy of the environment is not one of HTTP.")
