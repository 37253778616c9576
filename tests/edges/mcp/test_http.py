"""HTTP as it comes from outside: who gets in, what is refused and how, and what several replicas share."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ResourceListChangedNotification, ResourceUpdatedNotification

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import UserId, new_id
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource, Shares
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.testing.http import Exchange, Steps
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.limits import HttpLimits
from tests.support.connect import Edge, call, connect, fields_of, open_edge, open_edge_to, subscribe_resource
from tests.support.edges import Served, mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.replicas import serve_replicas

TOKEN = "0123456789abcdef-a-token"  # noqa: S105  # of this test alone
ACCEPT = {"accept": "application/json, text/event-stream"}
MODERN = {"mcp-protocol-version": "2026-07-28", **ACCEPT}
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def message(method: str, params: Mapping[str, object] | None = None, request_id: int | None = 1) -> dict[str, object]:
    """Write a JSON-RPC message."""
    said: dict[str, object] = {"jsonrpc": "2.0", "method": method, "params": dict(params or {})}
    return said if request_id is None else said | {"id": request_id}


@asynccontextmanager
async def served(
    home: Path,
    options: WebOptions | None = None,
    peer: OpenAIPeer | None = None,
    mcp: McpOptions | None = None,
    capacities: Mapping[Resource, int] | None = None,
) -> AsyncGenerator[tuple[Served, Edge, httpx2.AsyncClient]]:
    """Serve a whole program over HTTP, with a client that is no MCP client."""
    async with (
        open_edge(home, peer or OpenAIPeer(), mcp, capacities) as edge,
        serve_app(mcp_application(edge.server, options or WebOptions())) as place,
        httpx2.AsyncClient(base_url=place.base, timeout=25) as http,
    ):
        yield place, edge, http


async def begin(http: httpx2.AsyncClient) -> dict[str, str]:
    """Begin an MCP session, and return the headers of what follows."""
    answer = await http.post("/mcp", json=message("initialize", INITIALIZE), headers=ACCEPT)
    assert answer.status_code == 200, answer.text
    return {**ACCEPT, "mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}


def fault(answer: httpx2.Response) -> str:
    """Return the message of a refused request, which is JSON-RPC."""
    return str(answer.json()["error"]["message"])


# --- who gets in


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/sse"), ("POST", "/messages/"), ("DELETE", "/mcp")]
)
async def test_an_evil_host_or_origin_is_refused_everywhere(method: str, path: str, edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        evil = await http.request(method, path, headers={"host": "evil.example"})
        assert evil.status_code == 421
        assert "--allowed-host" in fault(evil)
        evil = await http.request(method, path, headers={"origin": "https://evil.example"})
        assert evil.status_code == 403
        assert "--allowed-origin" in fault(evil)
        assert "access-control-allow-origin" not in evil.headers


async def test_no_cache_gives_a_page_what_nobodys_page_asked_for(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        for origin in ({}, {"origin": "http://localhost:3000"}):
            answer = await http.post("/mcp", json=message("ping"), headers=ACCEPT | origin)
            assert (answer.status_code, answer.headers.get_list("vary")) == (200, ["Origin"])


async def test_a_host_and_an_origin_that_the_operator_allows_get_in(edge_home: Path) -> None:
    options = WebOptions(hosts=("agents.example",), origins=("https://app.example",))
    async with served(edge_home, options) as (_, _, http):
        allowed = {"host": "agents.example:8443", "origin": "https://app.example"}
        answer = await http.post("/mcp", json=message("ping"), headers=ACCEPT | allowed)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        preflight = await http.options("/mcp", headers=allowed | asked)
        assert preflight.status_code == 200
        assert "authorization" in preflight.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    ("headers", "query", "says", "error"),
    [
        ({}, "", "Send Authorization", None),
        ({"authorization": "Bearer wrong"}, "", "not valid", "invalid_token"),
        ({"authorization": f"Bearer {TOKEN}x"}, "", "not valid", "invalid_token"),
        ({"authorization": f"Basic {TOKEN}"}, "", "of the scheme basic: send Bearer", None),
        ({"authorization": f"ApiKey {TOKEN}"}, "", "of the scheme apikey: send Bearer", None),
        ({}, f"?access_token={TOKEN}", "Never put the token into the URL", None),
        ({"authorization": f"Bearer {TOKEN}"}, f"?access_token={TOKEN}", "Never put", "invalid_request"),
        ({"authorization": TOKEN}, "", "must begin with the word Bearer", "invalid_request"),
        ({"authorization": f"Bearer:{TOKEN}"}, "", "must begin with the word Bearer", "invalid_request"),
        ({"authorization": f"{TOKEN} {TOKEN}"}, "", "must begin with the word Bearer", "invalid_request"),
        ({"authorization": "Bearer"}, "", "Bearer and no token", "invalid_request"),
        ({"authorization": "bearer"}, "", "Bearer and no token", "invalid_request"),
        ({"authorization": ""}, "", "Authorization is empty", "invalid_request"),
        ({"authorization": f"Bearer Bearer {TOKEN}"}, "", "says Bearer twice", "invalid_request"),
        ({"authorization": f'Bearer "{TOKEN}"'}, "", "in quotation marks", "invalid_request"),
        ({"authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"}, "", "more than one word", "invalid_request"),
        ([("authorization", f"Bearer {TOKEN}")] * 2, "", "more than once", "invalid_request"),
        ([("authorization", f"Bearer {TOKEN}"), ("authorization", "Basic x")], "", "more than once", "invalid_request"),
        ({"authorization": "Bearer ${input:token}"}, "", "placeholder of the form ${...}", "invalid_request"),
        ({"authorization": "Bearer ${env:AGENTAPI_TOKEN}"}, "", "placeholder of the form ${...}", "invalid_request"),
        ({"authorization": "Bearer {env:AGENTAPI_TOKEN}"}, "", "placeholder of the form {env:...}", "invalid_request"),
        ({"authorization": "${AGENTAPI_AUTH}"}, "", "stands in Authorization is a placeholder", "invalid_request"),
        ({"authorization": "Bearer undefined"}, "", "Behind Bearer stands undefined", "invalid_request"),
        ({"authorization": "Bearer None"}, "", "Behind Bearer stands none", "invalid_request"),
        ({"authorization": "Bearer {{TOKEN}}"}, "", "placeholder of the form {{...}}", "invalid_request"),
        ({"authorization": "Bearer <YOUR_TOKEN>"}, "", "placeholder of the form <...>", "invalid_request"),
        ({"authorization": "Bearer $AGENTAPI_BEARER_TOKEN"}, "", "placeholder of the form $NAME", "invalid_request"),
        ({"authorization": "Bearer %TOKEN%"}, "", "placeholder of the form %NAME%", "invalid_request"),
    ],
)
async def test_nobody_gets_in_without_the_token_and_each_is_told_why(
    headers: dict[str, str] | list[tuple[str, str]], query: str, says: str, error: str | None, edge_home: Path
) -> None:
    sent = [*ACCEPT.items(), *(headers.items() if isinstance(headers, dict) else headers)]
    async with served(edge_home, WebOptions(token=TOKEN)) as (_, _, http):
        for path in ("/mcp", "/sse", "/messages/"):
            answer = await http.post(path + query, json=message("ping"), headers=sent)
            assert answer.status_code == (400 if error == "invalid_request" else 401)  # RFC 6750, section 3.1
            assert says in fault(answer)
            challenge = answer.headers["www-authenticate"]
            assert TOKEN not in answer.text + challenge
            assert challenge.startswith('Bearer realm="agentapi-mcp"')
            assert (f'error="{error}"' in challenge) if error else ("error" not in challenge)
            assert (says in challenge) is (error is not None)


async def test_a_token_of_any_form_that_is_the_servers_own_is_taken(edge_home: Path) -> None:
    for odd in ("${input:not-a-placeholder}", "Bearer of the token 1", '"in quotation marks"', "one, two and three"):
        async with served(edge_home, WebOptions(token=odd)) as (_, _, http):
            own = {"authorization": f"Bearer {odd}"}
            assert (await http.post("/mcp", json=message("ping"), headers=ACCEPT | own)).status_code == 200


async def test_with_the_token_all_is_open_and_health_is_open_without(edge_home: Path) -> None:
    async with served(edge_home, WebOptions(token=TOKEN)) as (place, _, http):
        authorised = httpx2.AsyncClient(headers={"authorization": f"bearer {TOKEN}"})
        async with authorised, Client(_streamable(place, authorised)) as client:
            assert not (await call(client, "list_agents")).is_error
        for path in ("/healthz", "/readyz"):
            answer = await http.get(path, headers={"host": "10.1.2.3:8000"})
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_server_that_stops_is_not_ready_and_ends_its_streams(edge_home: Path) -> None:
    async with served(edge_home) as (place, _, http):
        headers = await begin(http)
        async with http.stream("GET", "/mcp", headers=headers) as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            place.edge.stop()
            assert "ok" in "".join([part async for part in stream.aiter_text()])
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200


# --- what is refused


async def test_a_body_too_large_is_refused_declared_or_not(edge_home: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 1000

    async with served(edge_home, WebOptions(limits=HttpLimits(body_bytes=2000))) as (_, _, http):
        kind = {"content-type": "application/json"}
        for content in (b" " * 2001, chunks()):
            answer = await http.post("/mcp", content=content, headers=ACCEPT | kind)
            assert answer.status_code == 413
            assert "2,000 bytes" in fault(answer)
        assert (await http.post("/mcp", json=message("ping"), headers=ACCEPT)).status_code == 200


async def test_half_a_body_is_waited_for_and_then_refused(edge_home: Path) -> None:
    limits = HttpLimits(body_time=timedelta(milliseconds=50))
    async with served(edge_home, WebOptions(limits=limits)) as (place, _, http):
        host, port = place.base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /mcp HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        writer.write(head.encode() + b'{"jsonrpc"')
        assert b"408" in await reader.readline()
        writer.close()
        assert (await http.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        ({"content-type": "text/plain"}, b"{}", 415, -32600),
        ({}, b"no json", 400, -32700),
        (MODERN, b"no json", 400, -32700),
        ({}, b"[" * 100_000, 413, -32600),
        (MODERN, b"[" * 65, 413, -32600),
        ({}, b"[" + b"1," * 20_001 + b"1]", 413, -32600),
        ({}, b"[" + b"1" * 101 + b"]", 413, -32600),
        (MODERN, b"[" + b"1" * 101 + b"]", 413, -32600),
        ({}, b"[]", 400, -32600),
        (MODERN, b"[]", 400, -32600),
        ({}, b'{"jsonrpc":"2.0","id":{},"method":"ping"}', 400, -32600),
        ({"accept": "image/png"}, b'{"jsonrpc":"2.0","id":1,"method":"ping"}', 406, -32600),
        ({"mcp-session-id": "somebody-elses"}, b'{"jsonrpc":"2.0","id":1,"method":"ping"}', 404, -32600),
        ({"mcp-session-id": "x" * 4000}, b'{"jsonrpc":"2.0","id":1,"method":"ping"}', 404, -32600),
    ],
)
async def test_what_is_no_message_is_refused_in_words(
    headers: dict[str, str], content: bytes, status: int, code: int, edge_home: Path
) -> None:
    async with served(edge_home) as (_, _, http):
        sent = {**ACCEPT, "content-type": "application/json", **headers}
        answer = await http.post("/mcp", content=content, headers=sent)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["code"] == code
        assert answer.json()["id"] is None


async def test_a_protocol_version_that_does_not_exist_is_told_which_do(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        asked = message("tools/list", {"_meta": META | {"io.modelcontextprotocol/protocolVersion": "1999-01-01"}})
        answer = await http.post(
            "/mcp", json=asked, headers=ACCEPT | {"mcp-protocol-version": "1999-01-01", "mcp-method": "tools/list"}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == -32022
        assert "2026-07-28" in answer.json()["error"]["data"]["supported"]


async def test_requests_without_a_session_are_served_and_cannot_watch(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        asked = message("tools/call", {"name": "list_agents", "arguments": {}})
        answer = await http.post("/mcp", json=asked, headers={"accept": "application/json"})
        assert answer.json()["result"]["structuredContent"]["agents"]
        watch = message("resources/subscribe", {"uri": "agentapi://catalog/agents"})
        answer = await http.post("/mcp", json=watch, headers=ACCEPT)
        assert "initialize" in answer.json()["error"]["message"]
        assert (await http.post("/mcp", json=message("no/such", {}, None), headers=ACCEPT)).status_code == 202


async def test_a_get_streams_with_a_session_and_is_refused_without(edge_home: Path) -> None:
    async with served(edge_home, capacities={Resource.STREAMS: 1}) as (_, _, http):
        assert (await http.get("/mcp", headers=ACCEPT)).status_code == 405
        assert (await http.get("/mcp", headers=MODERN)).status_code == 405
        assert (await http.put("/mcp", headers=ACCEPT)).status_code == 405
        headers = await begin(http)
        assert (await http.get("/mcp", headers=headers | {"accept": "application/json"})).status_code == 406
        async with http.stream("GET", "/mcp", headers=headers) as stream:
            assert stream.status_code == 200
            assert (await http.get("/mcp", headers=headers)).status_code == 429


async def test_a_session_ends_with_a_delete_and_its_stream_with_it(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        headers = await begin(http)
        assert (await http.post("/mcp", json=message("ping"), headers=headers)).status_code == 200
        async with http.stream("GET", "/mcp", headers=headers) as stream:
            assert (await http.delete("/mcp", headers=headers)).status_code == 204
            assert "".join([part async for part in stream.aiter_text()]).startswith(": ok")
        for method in ("POST", "DELETE"):
            answer = await http.request(method, "/mcp", json=message("ping"), headers=headers)
            assert answer.status_code == 404
            assert "initialize" in fault(answer)


async def test_a_session_is_recorded_and_nobody_elses_is_there(edge_home: Path) -> None:
    async with served(edge_home) as (_, edge, http):
        headers = await begin(http)
        sessions, mine = edge.services.transport_sessions, edge.services.principal
        found = await sessions.find(mine, headers["mcp-session-id"])
        assert found is not None
        assert (found.client["name"], found.protocol) == ("raw", "2025-11-25")
        stranger = Principal(UserId(new_id()), mine.org_id)
        assert await sessions.find(stranger, headers["mcp-session-id"]) is None
        assert not await sessions.close(stranger, headers["mcp-session-id"])


async def test_as_many_requests_as_allowed_are_open_at_once(edge_home: Path) -> None:
    shares = Shares(SystemClock(), {Resource.OPEN_REQUESTS: 1})
    async with served(edge_home, WebOptions(shares=shares)) as (_, _, http), http.stream("GET", "/sse") as stream:
        await anext(stream.aiter_text())
        answer = await http.post("/mcp", json=message("ping"), headers=ACCEPT)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert (await http.get("/readyz")).status_code == 200


async def test_a_client_that_never_reads_is_dropped(edge_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "agentapi_mcp.web.request_ids")
    limits = HttpLimits(write_time=timedelta(milliseconds=50))
    async with served(edge_home, WebOptions(limits=limits)) as (place, edge, http):
        async with connect(edge.server, "http-2026") as client:  # which has the usual time to read
            said = f"{edge.tag} [[echo]] " + "x" * 900_000
            uri = fields_of(await call(client, "chat", agent="droid", message=said))["transcript_uri"]
        body = json.dumps(message("resources/read", {"uri": uri})).encode()
        host, port = place.base.removeprefix("http://").split(":")
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.connect((host, int(port)))
            head = f"POST /mcp HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\ncontent-length: {len(body)}\r\n"
            one = head.encode() + b"content-type: application/json\r\n\r\n" + body
            silent.sendall(one * 12)  # more than the kernel holds for a client
            async with asyncio.timeout(25):
                while not any(record.message == "client_does_not_read" for record in caplog.records):
                    assert (await http.get("/healthz")).status_code == 200


# --- ids and traces


async def test_a_request_has_one_id_in_its_answer_and_in_the_log(
    edge_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "agentapi_mcp.web.request_ids")
    async with served(edge_home) as (_, _, http):
        given = await http.post("/mcp", json=message("ping"), headers=ACCEPT | {"x-request-id": "from-a-proxy.1"})
        assert given.headers["x-request-id"] == "from-a-proxy.1"
        made = await http.post("/mcp", json=message("ping"), headers=ACCEPT | {"x-request-id": "bad id\t<script>"})
        assert made.headers["x-request-id"].isalnum()
    [first, second] = [record.__dict__ for record in caplog.records if record.message == "http_request"]
    assert (first["path"], first["status"], second["status"]) == ("/mcp", 200, 200)


@pytest.mark.parametrize("modern", [True, False])
async def test_the_callers_trace_goes_on_to_the_provider(modern: bool, edge_home: Path) -> None:  # noqa: FBT001  # a parameter
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with served(edge_home) as (_, edge, http):
        arguments = {"agent": "droid", "message": edge.tag}
        params: dict[str, object] = {"name": "chat", "arguments": arguments, **({"_meta": META} if modern else {})}
        headers = (MODERN | {"mcp-method": "tools/call", "mcp-name": "chat"}) if modern else ACCEPT
        headers = headers | {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "baggage": "secret=1"}
        answer = await http.post("/mcp", json=message("tools/call", params), headers=headers)
        assert answer.json()["result"]["structuredContent"]["status"] == "completed"
        sent = edge.peer.exchanges[-1].headers
        assert sent["traceparent"].startswith(f"00-{trace}-")
        assert "baggage" not in sent


@pytest.mark.parametrize("sent", [f"00-{'0af7' * 8}-b7ad6b7169203331-01", f"00-{'0' * 32}-b7ad6b7169203331-01", 7, [7]])
async def test_the_trace_of_a_message_goes_on_if_it_is_one(sent: object, edge_home: Path) -> None:
    async with served(edge_home) as (_, edge, http):
        arguments = {"agent": "droid", "message": edge.tag}
        params: dict[str, object] = {"name": "chat", "arguments": arguments, "_meta": META | {"traceparent": sent}}
        headers = MODERN | {"mcp-method": "tools/call", "mcp-name": "chat"}
        answer = await http.post("/mcp", json=message("tools/call", params), headers=headers)
        assert answer.json()["result"]["structuredContent"]["status"] == "completed"
        _, trace, span, _ = edge.peer.exchanges[-1].headers["traceparent"].split("-")
        assert (trace == "0af7" * 8, len(span)) == (isinstance(sent, str) and "0af7" in sent, 16)
        assert trace != "0" * 32


async def test_requests_of_one_connection_are_not_one_trace(edge_home: Path) -> None:
    async with served(edge_home) as (_, edge, http):
        for number in range(2):
            arguments = {"agent": "droid", "message": f"{edge.tag} {number}"}
            asked = message("tools/call", {"name": "chat", "arguments": arguments})
            await http.post("/mcp", json=asked, headers=ACCEPT)
        assert len({exchange.headers["traceparent"].split("-")[1] for exchange in edge.peer.exchanges[-2:]}) == 2


async def test_a_trace_begins_where_none_came(edge_home: Path) -> None:
    async with served(edge_home) as (place, edge, _), Client(place.mcp) as client:
        await call(client, "chat", agent="droid", message=edge.tag)
        version, trace, span, _ = edge.peer.exchanges[-1].headers["traceparent"].split("-")
        assert (version, len(trace), len(span)) == ("00", 32, 16)


# --- several replicas, no affinity


async def test_a_message_to_an_sse_session_of_another_replica_is_told_what_it_needs(edge_home: Path) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer()) as edge,
        serve_app(mcp_application(edge.server)) as one,
        serve_app(mcp_application(edge.server)) as other,
        httpx2.AsyncClient(timeout=25) as http,
        http.stream("GET", one.sse) as stream,
    ):
        lines = stream.aiter_lines()
        while not (line := await anext(lines)).startswith("data: "):
            pass
        path = line.removeprefix("data: ")
        assert (await http.post(one.base + path, json=message("ping"))).status_code == 202
        lost = await http.post(other.base + path, json=message("ping"))
        assert (lost.status_code, "session affinity. Use /mcp" in fault(lost)) == (404, True)


@asynccontextmanager
async def replicas(home: Path, peer: OpenAIPeer) -> AsyncGenerator[tuple[str, Edge]]:
    """Serve two programs on one database behind one address, and with one provider, whichever of them asks it."""
    async with (
        peer,
        open_edge_to(home, peer) as one,
        open_edge_to(home, peer) as two,
        serve_replicas([mcp_application(edge.server, WebOptions()) for edge in (one, two)]) as url,
    ):
        yield url, one


class Notifications:
    """The notifications that a 2025-era client received."""

    def __init__(self) -> None:
        self.uris: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, message: object) -> None:
        """Take a message."""
        if isinstance(message, ResourceUpdatedNotification):
            await self.uris.put(message.params.uri)
        elif isinstance(message, ResourceListChangedNotification):
            await self.uris.put("list")


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_any_replica_serves_any_request_of_a_conversation(mode: Any, edge_home: Path) -> None:  # noqa: ANN401  # the SDK's literal
    async with replicas(edge_home, OpenAIPeer()) as (url, edge), Client(url, mode=mode) as client:
        turn = fields_of(await call(client, "chat", agent="guide", message=edge.tag))
        for _ in range(3):
            turn = fields_of(await call(client, "chat", session_id=turn["session_id"], message="go on"))
            assert turn["status"] == "completed"
        again = fields_of(await call(client, "get_turn", turn_id=turn["turn_id"]))
        assert again["reply"] == turn["reply"]


async def test_a_2025_client_hears_through_any_replica(edge_home: Path) -> None:
    notifications = Notifications()
    async with (
        replicas(edge_home, OpenAIPeer()) as (url, edge),
        Client(url, mode="legacy", message_handler=notifications) as client,
    ):
        turn = fields_of(await call(client, "chat", agent="guide", message=edge.tag))
        uri = str(turn["transcript_uri"])
        await subscribe_resource(client, uri)
        await call(client, "chat", session_id=turn["session_id"], message="again")
        heard = [await notifications.uris.get()]
        while uri not in heard:
            heard.append(await notifications.uris.get())
        assert set(heard) <= {"list", uri}


async def test_a_request_is_taken_back_through_another_replica(edge_home: Path) -> None:
    steps = Steps()
    async with replicas(edge_home, OpenAIPeer(pace=steps)) as (url, _), httpx2.AsyncClient(timeout=25) as http:
        answer = await http.post(url, json=message("initialize", INITIALIZE), headers=ACCEPT)
        headers = ACCEPT | {"mcp-session-id": answer.headers["mcp-session-id"]}
        asked = message("tools/call", {"name": "chat", "arguments": {"agent": "droid", "message": "[[waits]]"}}, 7)
        async with asyncio.TaskGroup() as group:
            chat = group.create_task(http.post(url, json=asked, headers=headers))
            while not chat.done():
                said = message("notifications/cancelled", {"requestId": 7, "reason": "user stopped it"}, None)
                assert (await http.post(url, json=said, headers=headers)).status_code == 202
                await http.post(url, json=message("ping"), headers=headers)  # so that the next goes there again
        assert chat.result().json()["error"]["code"] == -32800


async def test_a_turn_whose_caller_timed_out_runs_on_and_is_joined_through_another_replica(edge_home: Path) -> None:
    steps = Steps()
    async with replicas(edge_home, OpenAIPeer(pace=steps)) as (url, edge), httpx2.AsyncClient(timeout=25) as http:
        answer = await http.post(url, json=message("initialize", INITIALIZE), headers=ACCEPT)
        headers = ACCEPT | {"mcp-session-id": answer.headers["mcp-session-id"]}

        async def take_back(number: int, words: str, reason: str | None) -> Exchange:
            """Ask, and take it back when the provider was asked; there is no grace here."""
            asked = message("tools/call", {"name": "chat", "arguments": {"agent": "droid", "message": words}}, number)
            said = message("notifications/cancelled", {"requestId": number, "reason": reason}, None)
            async with asyncio.TaskGroup() as group:
                chat = group.create_task(http.post(url, json=asked, headers=headers))
                exchange = await edge.peer.received(content=words)
                while not chat.done():
                    await http.post(url, json=said, headers=headers)
            return exchange

        slow = f"{edge.tag} timed out [[slow]] [[chunks2]]"
        await take_back(7, slow, "McpError: MCP error -32001: Request timed out")
        # By the time that this one is stopped, the one before would have been.
        await (await take_back(8, f"{edge.tag} stopped [[slow]] [[chunks9]]", None)).gone.wait()
        steps.release(20)
        again = message("tools/call", {"name": "chat", "arguments": {"agent": "droid", "message": slow}}, 9)
        turn = (await http.post(url, json=again, headers=headers)).json()["result"]["structuredContent"]
        assert (turn["status"], turn["joined"]) == ("completed", True)


async def test_listening_is_refused_beyond_the_limit_and_works_over_http(edge_home: Path) -> None:
    async with (
        served(edge_home, capacities={Resource.STREAMS: 1}) as (place, _, _),
        Client(place.mcp) as client,
        client.listen(resources_list_changed=True),
    ):
        with pytest.raises(MCPError):
            async with client.listen(resources_list_changed=True):
                pass


def _streamable(place: Served, http: httpx2.AsyncClient) -> Any:  # noqa: ANN401  # the SDK's transport
    return streamable_http_client(place.mcp, http_client=http)
