"""A replica that stops: 503 to new messages in both eras, never a refusal inside a 200, and cancellations are taken."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.testing.http import Steps
from tests.edges.mcp.test_http import ACCEPT, META, MODERN, begin, fault, message, served
from tests.support.connect import open_edge
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer

CHATS = MODERN | {"mcp-method": "tools/call", "mcp-name": "chat"}


@dataclass
class StartingServices:
    """Services that every request waits for until the test opens them."""

    services_: Services
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def find(self) -> Services | None:
        """Return none: they are starting."""
        return None

    async def services(self) -> Services:
        """Wait for them."""
        self.asked.set()
        await self.opened.wait()
        return self.services_


async def test_new_messages_go_to_another_replica_and_cancellations_are_taken(edge_home: Path) -> None:
    steps = Steps()
    async with served(edge_home, peer=OpenAIPeer(pace=steps)) as (place, edge, http), asyncio.TaskGroup() as group:
        headers = await begin(http)
        asked = {"name": "chat", "arguments": {"agent": "droid", "message": f"[[slow]] [[chunks3]] {edge.tag}"}}
        chat = group.create_task(http.post("/mcp", json=message("tools/call", asked, 7), headers=headers))
        await edge.peer.received(path="/chat/completions")
        place.edge.stop()
        for sent in (headers, CHATS, ACCEPT):
            late = await http.post("/mcp", json=message("tools/call", asked | {"_meta": META}), headers=sent)
            assert (late.status_code, late.headers["retry-after"], late.headers["connection"]) == (503, "1", "close")
            assert (late.json()["id"], "shutting down" in fault(late)) == (None, True)
        for path in ("/mcp", "/sse"):
            assert (await http.get(path, headers=headers)).status_code == 503
        assert (await http.post("/messages/", json=message("ping"))).status_code == 503
        assert [(await http.get(path)).status_code for path in ("/readyz", "/healthz")] == [503, 200]
        for content in (b"no json", b"[]", b"[" * 60):
            nonsense = await http.post("/mcp", content=content, headers=ACCEPT | {"content-type": "application/json"})
            assert nonsense.status_code == 503
        cancelled = message("notifications/cancelled", {"requestId": 7, "reason": "the user stopped it"}, None)
        assert (await http.post("/mcp", json=cancelled, headers=headers)).status_code == 202
        assert (await chat).json()["error"]["code"] == -32800
        assert (await http.delete("/mcp", headers=headers)).status_code == 204


@pytest.mark.parametrize("headers", [ACCEPT, CHATS], ids=["2025", "2026"])
async def test_a_chat_that_was_let_in_and_meets_the_closed_runner_is_refused_with_503(
    headers: dict[str, str], edge_home: Path
) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        starting = StartingServices(edge.services)
        server = create_server(starting, McpOptions())
        async with (
            serve_app(mcp_application(server)) as place,
            httpx2.AsyncClient(base_url=place.base, timeout=25) as http,
            asyncio.TaskGroup() as group,
        ):
            asked = {"name": "chat", "arguments": {"agent": "droid", "message": edge.tag}, "_meta": META}
            chat = group.create_task(http.post("/mcp", json=message("tools/call", asked), headers=headers))
            await starting.asked.wait()
            place.edge.stop()
            await edge.services.turns.drain()
            starting.opened.set()
            answer = await chat
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), answer.text
        assert "shutting down" in fault(answer)
