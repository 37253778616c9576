"""The server at its resource URL as a stranger meets it, by real requests to a real server and to others."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typing_extensions import override

from agentapi_mcp.app.doctor import ThisInstallation
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.app.stranger import check_resource, has_unknown_proxy
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import ConfigurationError, IssuerUnavailableError
from agentapi_mcp.base.exceptions import notes_of
from agentapi_mcp.core.access.models import Issuer
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.oauth import WELL_KNOWN, OAuth
from tests.support.certificates import Pair
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.issuer import IssuerPeer, Mood, SigningKey

KEY = SigningKey("stranger")


@asynccontextmanager
async def serving(home: Path, directory: Path) -> AsyncGenerator[tuple[str, str]]:
    """Serve with a sign-in as configured, and yield the resource URL and the issuer."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        resource = f"http://127.0.0.1:{port.getsockname()[1]}/mcp"
        async with IssuerPeer(KEY) as issuer:
            config = directory / "agentapi.toml"
            config.write_text(f'[[issuers]]\nissuer = "{issuer.issuer}"\n', encoding="utf-8")
            settings = Settings(home=home, config=config, resource_url=resource, shutdown_grace_seconds=0)
            async with open_app(settings, NONE) as app:
                await app.services_provider.services()
                options = WebOptions(oauth=OAuth(resource=resource, services_provider=app.services_provider))
                edge = mcp_application(create_server(app.services_provider, McpOptions()), options)
                async with serve_app(edge, port):
                    yield resource, issuer.issuer


async def test_a_server_as_it_is_configured_leads_a_stranger_to_the_sign_in(edge_home: Path, tmp_path: Path) -> None:
    async with serving(edge_home, tmp_path) as (resource, issuer):
        await check_resource(resource, [issuer])
        with pytest.raises(ConfigurationError, match="the server runs with another file"):
            await check_resource(resource, ["https://auth.example.com"])
        with pytest.raises(ConfigurationError, match=r"is the metadata of http://127\.0\.0\.1"):
            await check_resource(resource.replace("127.0.0.1", "localhost"), [issuer])
        assert await has_unknown_proxy(resource.removesuffix("/mcp")) is False


Said = tuple[int, str, dict[str, str]]
NONE: dict[str, str] = {}
NOTHING: dict[str, Said] = {}


class OtherServer(HttpPeer):
    """A server that answers what a test says, by path."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Said] = {}

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        status, body, headers = self.answers.get(exchange.path, (404, "", NONE))
        await answer.text(status, body, "application/json", headers)


METADATA = f"{WELL_KNOWN}/mcp"
RIGHT = '{{"resource": "{0}/mcp", "authorization_servers": ["https://a.example"]}}'


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (NOTHING, "answered 404"),
        ({METADATA: (421, "", NONE)}, "does not know this host"),
        ({METADATA: (502, "<html>", NONE)}, "nothing serves behind the proxy"),
        ({METADATA: (301, "", {"location": "https://other.example/x"})}, "redirects to https://other.example/x"),
        ({METADATA: (200, "<html>", NONE)}, "answered by another program"),
        ({METADATA: (200, "[" * 60_000, NONE)}, "answered by another program"),
        ({METADATA: (200, "x" * 200_000, NONE)}, "answered by another program"),
        ({METADATA: (200, '{"resource": "https://b.example/mcp"}', NONE)}, "the metadata of https://b.example/mcp"),
        ({METADATA: (403, "", NONE)}, "answered 403"),
        ({METADATA: (200, RIGHT, NONE), "/mcp": (200, "{}", NONE)}, "lets in a stranger without a token"),
        ({METADATA: (200, RIGHT, NONE), "/mcp": (202, "", NONE)}, "lets in a stranger without a token"),
        ({METADATA: (200, RIGHT, NONE), "/mcp": (401, "", NONE)}, "without saying where to sign in"),
        (
            {METADATA: (200, RIGHT, NONE), "/mcp": (401, "", {"www-authenticate": 'Basic realm="x"'})},
            "without saying where to sign in",
        ),
        ({METADATA: (200, RIGHT, NONE)}, "/mcp is answered 404"),
        ({METADATA: (200, RIGHT, NONE), "/mcp": (302, "", NONE)}, "/mcp redirects to another place"),
    ],
)
async def test_another_answer_is_told_for_what_it_is(answers: dict[str, Said], says: str) -> None:
    async with OtherServer() as server:
        for path, (status, body, headers) in answers.items():
            server.answers[path] = (status, body.format(server.origin) if body is RIGHT else body, headers)
        with pytest.raises(ConfigurationError) as refused:
            await check_resource(f"{server.origin}/mcp", ["https://a.example"])
    assert says in str(refused.value)
    assert notes_of(refused.value) == (("agentapi-mcp serve --allowed-host 127.0.0.1",) if "host" in says else ())


async def test_a_server_with_other_issuers_is_told_with_the_setting_of_the_file() -> None:
    async with OtherServer() as server:
        server.answers[METADATA] = (200, RIGHT.format(server.origin), NONE)
        with pytest.raises(ConfigurationError, match="runs with another file") as refused:
            await check_resource(f"{server.origin}/mcp", ["https://b.example"])
    assert notes_of(refused.value) == ("export AGENTAPI_CONFIG=...",)


async def test_a_name_a_port_and_a_certificate_that_do_not_lead_there_are_told(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigurationError, match="nothing listens there"):
            await check_resource(f"http://127.0.0.1:{closed.getsockname()[1]}/mcp", [])
    with pytest.raises(ConfigurationError, match="its name has no address"):
        await check_resource("https://no.such.host.invalid/mcp", [])
    async with tls_server(tmp_path) as port:
        with pytest.raises(ConfigurationError, match=r"its certificate is not valid \(self-signed"):
            await check_resource(f"https://127.0.0.1:{port}/mcp", [])
    async with tls_server(None) as port:
        with pytest.raises(ConfigurationError, match="does not speak TLS"):
            await check_resource(f"https://127.0.0.1:{port}/mcp", [])


@asynccontextmanager
async def tls_server(certificate: Path | None) -> AsyncGenerator[int]:
    """Answer each connection at once, over TLS with a certificate that nobody trusts, or without TLS."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*Pair.make().write(certificate))
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "unknown"),
    [
        ((200, '{"status": "ok"}', NONE), False),
        ((200, '{"status": "ok", "warnings": ["proxy"]}', NONE), True),
        ((503, '{"status": "not ready"}', NONE), False),
        ((200, '{"warnings": ["proxy"]}', NONE), None),
        ((200, "<html>", NONE), None),
        ((404, "", NONE), None),
    ],
)
async def test_the_server_is_asked_whether_it_knows_its_proxy(answer: Said, *, unknown: bool | None) -> None:
    async with OtherServer() as server:
        server.answers["/readyz"] = answer
        assert await has_unknown_proxy(server.origin) is unknown


@pytest.mark.parametrize(
    ("mood", "says"),
    [
        ("well", None),
        ("fails", "answers 500"),
        ("empty", "no key that signs"),
        ("other_issuer", "is not the metadata of"),
        ("redirects", "answers 302"),
        ("huge", "answers more than"),
    ],
)
async def test_the_keys_of_an_issuer_are_fetched_by_the_rules_of_the_server(mood: Mood, says: str | None) -> None:
    here = ThisInstallation({}, SystemClock(), Settings).configure()
    async with IssuerPeer(KEY) as peer:
        peer.mood = mood
        if says is None:
            assert await here.check_issuer(Issuer(issuer=peer.issuer)) == 1
            return
        with pytest.raises(IssuerUnavailableError, match=says):
            await here.check_issuer(Issuer(issuer=peer.issuer))


async def test_an_issuer_is_never_asked_without_tls() -> None:
    here = ThisInstallation({}, SystemClock(), Settings).configure()
    with pytest.raises(IssuerUnavailableError, match="neither https nor on this machine"):
        await here.check_issuer(Issuer(issuer="http://auth.example.com"))
