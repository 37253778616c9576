"""Whom a request to a provider trusts, and which proxy it goes through."""

import base64
import hashlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from agentapi_mcp.backends.wire.http import Deadlines, HttpClient, HttpRequest
from agentapi_mcp.base.errors import BackendError, BackendFault
from tests.support.certificates import Pair
from tests.support.http_asks import LONG, ask, fail, get, post
from tests.support.sockets import Line, relaying, says, says_last, serving

ALL = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nall"
UNTRUSTED = (BackendFault.CONNECTION, "The provider has a certificate of no authority that this server trusts.")
OTHER_HOST = (BackendFault.CONNECTION, "The provider has a certificate of another host than the one in its URL.")
NO_TLS = (
    BackendFault.CONNECTION,
    "The provider does not speak TLS as expected; if its port is one of plain HTTP, the URL begins with http://.",
)
REFUSED = (BackendFault.CONNECTION, "The provider refused the connection.")
NO_ANSWER = (BackendFault.CONNECTION, "The provider closed the connection without an answer.")
TOO_LATE = (
    BackendFault.TIMEOUT_CONNECT,
    (
        "The provider did not accept a connection with TLS in time; if its port is one of plain HTTP, "
        "the URL begins with http://."
    ),
)
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
        assert await fail(get(f"https://127.0.0.2:{peer.port}")) == OTHER_HOST


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
        fault, said = await fail(get("https://provider.example/x", deadlines=deadlines))
        assert fault is BackendFault.TIMEOUT_CONNECT
        assert said == "The proxy of HTTPS_PROXY, or the provider behind it, did not accept a connection in time."
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
    ("script", "fault", "said"),
    [
        (refuses, BackendFault.CONNECTION, "wants a user name and a password, or refuses those of its URL."),
        (fails, BackendFault.CONNECTION, "refused to connect to the provider (HTTP 502)."),
        (raves, BackendFault.BAD_REPLY, None),
        (ends, BackendFault.CONNECTION, None),
    ],
)
async def test_a_proxy_that_does_not_connect_is_told_with_its_variable(
    script: Callable[[Line], Awaitable[None]], fault: BackendFault, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(script) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin.replace("//", "//us:s3cret@"))
        told = await fail(get("https://provider.example/x"))
    assert told[0] is fault
    assert "s3cret" not in told[1]
    if said is not None:
        assert told[1] == f"The proxy of https_proxy {said}"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_a_dead_proxy_is_told_with_its_variable_and_what_to_do(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for proxy, said in (
        ("http://us:s3cret@127.0.0.1:1", "refused the connection."),
        ("http://nobody.invalid:1", "has a host name that cannot be resolved."),
    ):
        monkeypatch.setenv(variable, proxy)
        error = await failure(get("http://provider.example/x"))
        assert str(error) == f"The proxy of {variable} {said}"
        assert variable in error.next_step
        assert "NO_PROXY" in error.next_step
        assert "s3cret" not in f"{error!r} {error.next_step}"


async def test_a_proxy_that_wants_a_login_is_told_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(refuses) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        said = "The proxy of HTTP_PROXY wants a user name and a password, or refuses those of its URL."
        assert await fail(get("http://provider.example/x")) == (BackendFault.CONNECTION, said)
        assert await proxy_status(proxy.origin) == 407  # a provider's own is its answer


async def proxy_status(url: str) -> int:
    """Ask a server as what it is not, a provider."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HTTP_PROXY")
        async with HttpClient() as client, client.exchange(get(url)) as reply:
            return reply.status


@pytest.mark.parametrize(
    ("proxy", "kind"),
    [
        ("socks5://127.0.0.1:9", "a SOCKS proxy"),
        ("socks5h://us:s3cret@127.0.0.1:9", "a SOCKS proxy"),
        ("ftp://127.0.0.1:9", "no URL of a proxy"),
        ("http://", "no URL of a proxy"),
        ("http://us:s3cret@h:port", "no URL of a proxy"),
    ],
)
async def test_a_proxy_that_is_not_one_of_http_is_told(proxy: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    error = await failure(get("http://provider.example/x"))
    said = f"The agent was not asked: ALL_PROXY names {kind}, and only those that speak HTTP can be used."
    assert (error.fault, str(error), error.may_retry) == (BackendFault.CONNECTION, said, False)
    assert "ALL_PROXY" in error.next_step
    assert "s3cret" not in f"{error!r} {error.__cause__!r} {error.next_step}"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # which is for this scheme
    assert str(await failure(get("http://provider.example/x"))) == "The proxy of HTTP_PROXY refused the connection."


async def test_a_proxy_that_cannot_be_used_is_spared_by_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    async with serving(says(ALL)) as peer:
        assert await ask(get(peer.origin)) == b"all"


# --- certificates


async def failure(request: HttpRequest) -> BackendError:
    """Ask for what fails, and return the error."""
    with pytest.raises(BackendError) as caught:
        await ask(request)
    return caught.value


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (timedelta(days=-9), "The provider has a certificate that has expired."),
        (timedelta(days=9), "The provider has a certificate that is not valid yet."),
    ],
)
async def test_a_certificate_of_another_time_is_told(
    shift: timedelta, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = Pair.make(shift).write(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    async with serving(says(ALL), tls=context) as peer:
        assert await fail(get(peer.secure)) == (BackendFault.CONNECTION, said)


async def test_an_unknown_authority_is_told_with_what_to_set_and_a_file_of_the_agent_makes_it_known(
    tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    async with serving(says(ALL), tls=tls) as peer, HttpClient() as client:
        error = await failure(get(peer.secure))
        assert (error.fault, str(error)) == UNTRUSTED
        for name in ("ca_file", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE is not read"):
            assert name in error.next_step
        trusting = replace(get(peer.secure), ca_file=str(tmp_path / "cert.pem"))
        async with client.exchange(trusting) as reply:
            assert await reply.body() == b"all"
        with pytest.raises(BackendError, match="no authority"):  # the agent's file is of that agent alone
            async with client.exchange(get(peer.secure)):
                pass


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_a_file_without_certificates_is_told_with_its_variable(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    error = await failure(get("https://127.0.0.1:1"))
    assert "SSL_CERT_FILE names no file of certificates that can be read" in str(error)
    assert (error.fault, error.may_retry) == (BackendFault.CONNECTION, False)
    monkeypatch.delenv("SSL_CERT_FILE")
    error = await failure(replace(get("https://127.0.0.1:1"), ca_file=str(path)))
    assert "ca_file names no file of certificates that can be read" in str(error)


async def test_what_speaks_tls_without_being_asked_to_is_told_with_the_right_url(tls: ssl.SSLContext) -> None:
    async with serving(says(ALL), tls=tls) as peer:
        assert "https://" in (await failure(get(peer.origin))).next_step
