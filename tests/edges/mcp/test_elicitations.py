"""What the server asks a 2025-era client over HTTP, and the answer, which may come to another replica."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from mcp.shared.message import ServerMessageMetadata
from mcp_types import CallToolRequestParams, CallToolResult, ElicitRequest, ElicitRequestFormParams, ElicitResult

from agentapi_mcp.edges.mcp.callers import Context
from agentapi_mcp.edges.mcp.server.server import EdgeServer
from agentapi_mcp.web.application import WebOptions
from tests.support.connect import Edge, open_edge
from tests.support.edges import mcp_application
from tests.support.peers.openai import OpenAIPeer
from tests.support.replicas import serve_replicas

ACCEPT = {"accept": "application/json, text/event-stream"}
Json = dict[str, object]


def message(method: str, params: Json, request_id: int = 1) -> Json:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


CALL = message("tools/call", {"name": "ask", "arguments": {}}, 7)
INITIALIZE = message(
    "initialize",
    {
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "raw", "version": "1"},
    },
)


def elicit_in_every_tool(server: EdgeServer, within: timedelta | None) -> EdgeServer:
    """Make every tool ask the user their name."""

    async def ask(context: Context, _params: CallToolRequestParams) -> CallToolResult:
        form = ElicitRequestFormParams(message="Who?", requested_schema={"type": "object", "properties": {}})
        answer = await context.session.send_request(
            ElicitRequest(params=form),
            ElicitResult,
            request_read_timeout_seconds=within.total_seconds() if within is not None else None,
            metadata=ServerMessageMetadata(related_request_id=context.request_id),
        )
        return CallToolResult(content=[], structured_content={"answer": json.dumps(answer.content)})

    server.add_request_handler("tools/call", CallToolRequestParams, ask)
    return server


@dataclass(frozen=True)
class ElicitationClient:
    """A raw HTTP client with an open session, which sends only what a test says."""

    http: httpx2.AsyncClient
    edge: Edge
    headers: dict[str, str]

    @asynccontextmanager
    async def calling(self) -> AsyncGenerator[AsyncIterator[Json]]:
        """Call the tool, and give what comes."""
        async with self.http.stream("POST", "", json=CALL, headers=self.headers) as answer:
            yield _events(answer)

    async def post(self, body: object) -> int:
        """Send a message, and return the status."""
        headers = self.headers | {"content-type": "application/json"}
        return (await self.http.post("", content=json.dumps(body), headers=headers)).status_code


async def _events(answer: httpx2.Response) -> AsyncIterator[Json]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@asynccontextmanager
async def open_elicitation_client(
    home: Path, replicas: int = 1, within: timedelta | None = None
) -> AsyncGenerator[ElicitationClient]:
    """Serve one or two replicas whose tool asks."""
    async with open_edge(home, OpenAIPeer()) as one, open_edge(home, OpenAIPeer()) as two:
        apps = [
            mcp_application(elicit_in_every_tool(edge.server, within), WebOptions()) for edge in (one, two)[:replicas]
        ]
        async with serve_replicas(apps) as url, httpx2.AsyncClient(base_url=url, timeout=25) as http:
            begun = await http.post("", json=INITIALIZE, headers=ACCEPT)
            yield ElicitationClient(http, one, ACCEPT | {"mcp-session-id": begun.headers["mcp-session-id"]})


@pytest.mark.parametrize("replicas", [1, 2])
async def test_the_answer_reaches_who_asked_through_any_replica_whatever_it_holds(
    replicas: int, edge_home: Path
) -> None:
    content = {"name": "Zoë\x00\ud800 " + "x" * 20_000}  # more than NOTIFY carries, and what jsonb does not take
    async with open_elicitation_client(edge_home, replicas) as client:
        async with client.calling() as events:
            question = await anext(events)
            assert question["method"] == "elicitation/create"
            response = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": content}}
            assert await client.post(response) == 202
            result = await anext(events)
        assert result["id"] == CALL["id"]
        assert json.loads(json.dumps(result))["result"]["structuredContent"] == {"answer": json.dumps(content)}
        store, caller = client.edge.services.elicitations, client.edge.services.principal
        session, elicitation_id = client.headers["mcp-session-id"], str(question["id"])
        assert await store.find_answer(caller, session, elicitation_id) is None
        assert not await store.answer(caller, session, elicitation_id, response)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_an_error_is_an_answer_too(replicas: int, edge_home: Path) -> None:
    async with open_elicitation_client(edge_home, replicas) as client, client.calling() as events:
        question = await anext(events)
        error = {"code": -1, "message": "The user is not there."}
        assert await client.post({"jsonrpc": "2.0", "id": question["id"], "error": error}) == 202
        assert (await anext(events))["error"] == error


async def test_a_question_that_nobody_answers_is_taken_back(edge_home: Path) -> None:
    async with (
        open_elicitation_client(edge_home, within=timedelta(milliseconds=50)) as client,
        client.calling() as events,
    ):
        question = await anext(events)
        taken_back, result = await anext(events), await anext(events)
    assert taken_back["method"] == "notifications/cancelled"
    assert json.loads(json.dumps(taken_back))["params"]["requestId"] == question["id"]
    assert "not answer in time" in json.dumps(result["error"])


async def test_only_the_first_answer_counts_and_one_to_nothing_is_forgotten(edge_home: Path) -> None:
    async with open_elicitation_client(edge_home, 2) as client, client.calling() as events:
        question = await anext(events)
        store, caller = client.edge.services.elicitations, client.edge.services.principal
        for nothing in ("ask-0123456789012345678901", "ask-\x00", 7, "x" * 500):
            assert await client.post({"jsonrpc": "2.0", "id": nothing, "result": {}}) == 202
        session, elicitation_id = client.headers["mcp-session-id"], str(question["id"])
        first: Json = {"jsonrpc": "2.0", "id": elicitation_id, "result": {"action": "decline"}}
        assert await store.answer(caller, session, elicitation_id, first)
        assert not await store.answer(caller, session, elicitation_id, {**first, "result": {"action": "accept"}})
        assert json.loads(json.dumps(await anext(events)))["result"]["structuredContent"] == {"answer": "null"}


async def test_what_is_no_answer_is_refused(edge_home: Path) -> None:
    async with open_elicitation_client(edge_home) as client:
        assert await client.post({"jsonrpc": "2.0", "id": 1, "result": "words"}) == 400
        assert await client.post({"jsonrpc": "2.0", "id": 1, "error": {}}) == 400


async def test_a_client_that_cannot_be_asked_is_told_so_at_once(edge_home: Path) -> None:
    async with open_elicitation_client(edge_home) as client:
        for headers in ({**client.headers, "accept": "application/json"}, ACCEPT):
            answer = await client.http.post("", json=CALL, headers=headers)
            assert "error" in answer.json()
