"""What every mounted edge gets from the HTTP host: the same checks, as far as its mount says that they apply."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource, Shares
from agentapi_mcp.web.application import WebOptions, create_web
from agentapi_mcp.web.limits import HttpLimits
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, Refusal
from agentapi_mcp.web.requests import PRINCIPAL
from tests.support.connect import open_edge
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.web.test_turnstile import NoServices

TOKEN = "0123456789abcdef-a-token"  # noqa: S105  # of this test alone
OWN = {"authorization": f"Bearer {TOKEN}"}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with who asks, and how long the body is."""
    principal = scope[PRINCIPAL]
    body = await Request(scope, receive).body()
    answer = JSONResponse({"anonymous": not isinstance(principal, Principal), "bytes": len(body)})
    await answer(scope, receive, send)


def plainly(refusal: Refusal) -> Response:
    """Render a refusal as an edge of plain text would."""
    return PlainTextResponse(f"refused: {refusal.message}", refusal.status, headers=dict(refusal.headers))


@asynccontextmanager
async def mounted(home: Path, mount: Mount, options: WebOptions) -> AsyncGenerator[httpx2.AsyncClient]:
    """Serve this mount beside the MCP server."""
    async with (
        open_edge(home, OpenAIPeer()) as edge,
        serve_app(mcp_application(edge.server, options, mount)) as place,
        httpx2.AsyncClient(base_url=place.base, timeout=20) as http,
    ):
        yield http


def edge_of(mode: AuthenticationMode, *, origins: tuple[str, ...] = ()) -> Mount:
    """Mount an edge that takes plain text of at most 100 bytes."""
    return Mount(
        paths=("/echo/",),
        app=echo,
        authentication=mode,
        render=plainly,
        content_type="text/plain",
        max_body_bytes=100,
        origins=origins,
    )


@pytest.mark.parametrize(
    ("mode", "without", "wrong"),
    [
        (AuthenticationMode.OPEN, 200, 200),
        (AuthenticationMode.OPTIONAL, 200, 401),
        (AuthenticationMode.REQUIRED, 401, 401),
    ],
)
async def test_an_edge_says_whether_its_requests_are_authenticated(
    mode: AuthenticationMode, without: int, wrong: int, edge_home: Path
) -> None:
    async with mounted(edge_home, edge_of(mode), WebOptions(token=TOKEN)) as http:
        assert (await http.get("/echo/")).status_code == without
        assert (await http.get("/echo/", headers={"authorization": "Bearer wrong"})).status_code == wrong
        assert (await http.get("/echo/", headers=OWN)).status_code == 200
        assert (await http.get("/mcp")).status_code == 401  # what one edge leaves open, no other does


async def test_every_edge_is_behind_the_check_of_host_and_origin(edge_home: Path) -> None:
    mount = edge_of(AuthenticationMode.OPEN, origins=("https://pages.example",))
    async with mounted(edge_home, mount, WebOptions(origins=("https://app.example",))) as http:
        for path in ("/echo/", "/mcp", "/anything"):
            misdirected = await http.get(path, headers={"host": "evil.example"})
            assert misdirected.status_code == 421
            assert "--allowed-host" in misdirected.text
            foreign = await http.get(path, headers={"origin": "https://evil.example"})
            assert (foreign.status_code, "--allowed-origin" in foreign.text) == (403, True)
        assert (await http.get("/echo/", headers={"origin": "https://app.example"})).status_code == 200
        twice = await http.get("/echo/", headers=[("origin", "https://app.example")] * 2)
        assert twice.status_code == 403
        # An edge's own origin is its own alone.
        assert (await http.get("/echo/", headers={"origin": "https://pages.example"})).status_code == 200
        assert (await http.get("/mcp", headers={"origin": "https://pages.example"})).status_code == 403


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_are_answered_for_any_host_and_let_no_other_page_read(path: str, edge_home: Path) -> None:
    async with mounted(edge_home, edge_of(AuthenticationMode.OPEN), WebOptions(token=TOKEN)) as http:
        answer = await http.get(path, headers={"host": "evil.example", "origin": "https://evil.example"})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/echo/", "/healthz", "/.well-known/x", "/nothing"])
async def test_every_edge_is_behind_the_check_of_framing(path: str) -> None:
    app = create_web(NoServices(), [edge_of(AuthenticationMode.OPEN)], WebOptions()).app
    statuses: list[int] = []

    async def send(message: Message) -> None:
        statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    headers = [(b"host", b"localhost")] * 2
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "query_string": b""}
    await app({**scope, "headers": headers}, receive, send)
    assert statuses == [400]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("LOCALHOST", 200),
        ("localhost:8080", 200),
        ("agents.example.COM", 200),
        ("agents.example.com:1", 200),
        ("localhost:", 200),  # RFC 3986: a port may be empty
        ("[0:0:0:0:0:0:0:1]:80", 200),
        ("localhost:evil", 400),
        ("localhost:80:80", 400),
        ("localhost:80@evil.example", 400),
        ("evil.example@localhost", 400),
        ("localhost:65536", 400),
        ("[::1%25lo]", 400),
        ("", 400),
        ("localhost.", 421),
    ],
)
async def test_a_host_is_a_name_without_case_and_a_port(host: str, status: int, edge_home: Path) -> None:
    options = WebOptions(hosts=("Agents.Example.com",))
    async with mounted(edge_home, edge_of(AuthenticationMode.OPEN), options) as http:
        assert (await http.get("/echo/", headers={"host": host})).status_code == status


async def test_every_edge_is_behind_the_limits(edge_home: Path) -> None:
    options = WebOptions(shares=Shares(SystemClock(), {Resource.OPEN_REQUESTS: 0}))
    async with mounted(edge_home, edge_of(AuthenticationMode.OPEN), options) as http:
        for path in ("/echo/", "/mcp"):
            assert (await http.get(path)).status_code == 503
        assert (await http.get("/healthz")).status_code == 200


async def test_a_body_is_of_the_edges_type_and_size(edge_home: Path) -> None:
    text = {"content-type": "text/plain; charset=utf-8"}
    async with mounted(edge_home, edge_of(AuthenticationMode.OPEN), WebOptions()) as http:
        assert (await http.post("/echo/", content=b"x" * 100, headers=text)).json()["bytes"] == 100
        large = await http.post("/echo/", content=b"x" * 101, headers=text)
        assert (large.status_code, large.headers["connection"]) == (413, "close")
        assert large.text.startswith("refused: The body is larger than 100 bytes")
        json = await http.post("/echo/", json={})
        assert (json.status_code, json.text) == (415, "refused: Send the body as Content-Type: text/plain.")


async def test_a_server_takes_less_than_an_edge_would(edge_home: Path) -> None:
    options = WebOptions(limits=HttpLimits(body_bytes=10))
    async with mounted(edge_home, edge_of(AuthenticationMode.OPEN), options) as http:
        large = await http.post("/echo/", content=b"x" * 11, headers={"content-type": "text/plain"})
        assert large.status_code == 413


async def test_what_fails_in_an_edge_tells_its_request_id_and_no_more(
    edge_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("a secret")

    mount = Mount(paths=("/echo/",), app=failing, authentication=AuthenticationMode.OPEN, render=plainly)
    async with mounted(edge_home, mount, WebOptions()) as http:
        answer = await http.get("/echo/", headers={"x-request-id": "given-1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "given-1")
    assert answer.text.startswith("refused: Internal error, request id given-1.")
    assert "a secret" not in answer.text
    assert any(record.exc_info for record in caplog.records if record.message == "http_failed")


async def test_an_edge_that_cannot_reach_the_store_says_so_and_logs_no_traceback(
    edge_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(_scope: Scope, _receive: Receive, _send: Send) -> None:
        async with asyncio.TaskGroup():  # which wraps it
            raise StoreUnavailableError("The database is away.")

    mount = Mount(paths=("/echo/",), app=failing, authentication=AuthenticationMode.OPEN, render=plainly)
    async with mounted(edge_home, mount, WebOptions()) as http:
        answer = await http.get("/echo/")
    assert (answer.status_code, answer.text) == (503, "refused: The database is away.")
    assert [record.exc_info for record in caplog.records if record.message == "http_without_store"] == [None]


async def test_a_path_that_no_edge_serves_is_not_found(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        web = create_web(edge.server.parts.services_provider, [edge_of(AuthenticationMode.OPEN)], WebOptions())
        async with serve_app(web) as place, httpx2.AsyncClient(base_url=place.base) as http:
            assert (await http.get("/echo")).status_code == 404
            assert (await http.get("/echoes/")).status_code == 404
            assert (await http.get("/echo/more")).status_code == 200
