"""A database that takes what is sent and says nothing: a call ends in the time that its caller gave, and says so."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import EdgeServer, create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.web.application import WebOptions
from tests.support.connect import Link, call, connect, fields_of, text_of
from tests.support.databases import DatabaseUrls
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.raw_client import CLAUDE, RawClient, RefusedError
from tests.support.wires import Break, Wire, open_wire

# Less than the 30 s after which a statement is given up.
PATIENCE = 25
MCP = "/mcp"
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1.0"}}
SILENT = "The database does not answer in time. Try again in a moment."


@dataclass
class Wired:
    """A program behind a wire to its database."""

    server: EdgeServer
    services: Services
    wire: Wire


@pytest.fixture
async def wired(own_database: DatabaseUrls, tmp_path: Path) -> AsyncGenerator[Wired]:
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(OpenAIPeer())
        wire, url = await stack.enter_async_context(open_wire(own_database.app))
        settings = Settings(
            home=tmp_path, database_url=SecretStr(url), abandon_grace_seconds=0, shutdown_grace_seconds=0
        )
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
        app = await stack.enter_async_context(open_app(settings, environ))
        services = await app.services_provider.services()
        yield Wired(create_server(app.services_provider, McpOptions()), services, wire)


@asynccontextmanager
async def over_http(wired: Wired) -> AsyncGenerator[httpx2.AsyncClient]:
    """Serve it, for as long as a test may take."""
    accept = {"accept": "application/json, text/event-stream"}
    async with (
        asyncio.timeout(PATIENCE),
        serve_app(mcp_application(wired.server, WebOptions())) as served,
        httpx2.AsyncClient(base_url=served.base, headers=accept, timeout=PATIENCE) as http,
    ):
        yield http


@pytest.mark.parametrize("link", ["stdio-2026", "http-2025"])
async def test_a_message_waits_no_longer_than_asked_for_the_preferences(link: Link, wired: Wired) -> None:
    async with asyncio.timeout(PATIENCE), connect(wired.server, link) as client:
        wired.wire.break_at("interval '29 days'", Break.SILENT)
        result = await call(client, "chat", agent="droid", message="[[echo]] hello", wait_seconds=1)
        assert (result.is_error, text_of(result)) == (True, SILENT)


@pytest.mark.parametrize("link", ["stdio-2026", "http-2025"])
async def test_a_message_does_not_wait_for_the_record_of_its_client(link: Link, wired: Wired) -> None:
    async with asyncio.timeout(PATIENCE), connect(wired.server, link) as client:
        wired.wire.break_at("SET mcp_state = CASE", Break.SILENT)
        result = await call(client, "chat", agent="droid", message="[[echo]] hello", wait_seconds=20)
        assert fields_of(result)["status"] == "completed"
        assert wired.wire.broken == 1


async def test_a_request_waits_no_longer_for_its_transport_session(wired: Wired) -> None:
    async with over_http(wired) as http:
        hello = await http.post(MCP, json=_request("initialize", HELLO))
        headers = {"mcp-session-id": hello.headers["mcp-session-id"]}
        wired.wire.break_at("interval '23 hours'", Break.SILENT)
        refused = await http.post(MCP, json=_request("tools/list", {}), headers=headers)
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, SILENT)


@pytest.mark.parametrize("how", list(Break))
async def test_a_session_whose_end_is_not_confirmed_is_told_so(
    how: Break, wired: Wired, caplog: pytest.LogCaptureFixture
) -> None:
    async with over_http(wired) as http:
        hello = await http.post(MCP, json=_request("initialize", HELLO))
        headers = {"mcp-session-id": hello.headers["mcp-session-id"]}
        wired.wire.break_at("SET expires_at = now() WHERE", how)
        refused = await http.delete(MCP, headers=headers)
        assert (refused.status_code, "The database" in refused.json()["error"]["message"]) == (503, True)
        assert (await http.delete(MCP, headers=headers)).status_code == 204
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_stream_whose_tasks_cannot_be_read_is_refused_in_words(
    wired: Wired, caplog: pytest.LogCaptureFixture
) -> None:
    made = await wired.services.personal_tokens.create(wired.services.principal, "a stream")
    token = {"authorization": f"Bearer {made.secret}"}
    async with (
        asyncio.timeout(PATIENCE),
        serve_app(mcp_application(wired.server, WebOptions(needs_token=True))) as served,
        httpx2.AsyncClient(headers=token, timeout=PATIENCE) as http,
    ):
        client = RawClient(served.mcp, http, CLAUDE)
        wired.wire.break_at("AS wanted (id)", Break.SILENT)
        with pytest.raises(RefusedError, match=SILENT):
            async with client.listening(taskIds=["A" * 32]) as messages:
                await anext(messages)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_stream_ends_where_its_session_cannot_be_read_again(
    wired: Wired, caplog: pytest.LogCaptureFixture
) -> None:
    async with over_http(wired) as http:
        hello = await http.post(MCP, json=_request("initialize", HELLO))
        headers = {"mcp-session-id": hello.headers["mcp-session-id"]}
        async with http.stream("GET", MCP, headers=headers) as stream:
            parts = stream.aiter_text()
            await anext(parts)
            wired.wire.break_at("AS ages", Break.BEFORE)
            caller, sessions = wired.services.principal, wired.services.transport_sessions
            await sessions.watch(caller, headers["mcp-session-id"], "agentapi://sessions", most=9, most_of_user=9)
            # That the agents were published may be told meanwhile.
            assert [part async for part in parts if "resources/list_changed" not in part] == []
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_mcp_session_that_cannot_be_stored_does_not_hold_up_the_handshake(wired: Wired) -> None:
    async with over_http(wired) as http:
        wired.wire.break_at("OFFSET", Break.SILENT)
        hello = await http.post(MCP, json=_request("initialize", HELLO))
        assert (hello.status_code, "mcp-session-id" in hello.headers) == (200, False)


def _request(method: str, params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
