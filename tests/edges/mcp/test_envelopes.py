"""A message that JSON-RPC does not allow is refused in words that name its fault, by each transport; none waits."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.mcp.transports.sse_endpoint import prefix_of
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.oauth import OAuth
from tests.edges.mcp.test_http import ACCEPT, MODERN, begin, fault, message, served
from tests.edges.mcp.test_stdio import INITIALIZE
from tests.edges.mcp.test_stdio import served as served_stdio
from tests.support.connect import connect

PING: Mapping[str, object] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
NO_IDS: list[object] = json.loads("[null, true, 1.0, {}, []]")
WRONG: list[tuple[object, str]] = [
    *(({**PING, "id": value}, "The id of a request must be a string or a whole") for value in NO_IDS),
    ({"id": 1, "method": "ping"}, 'The message must have "jsonrpc": "2.0".'),
    ({**PING, "jsonrpc": "1.0"}, 'The message must have "jsonrpc": "2.0".'),
    ({**PING, "method": 5}, "The method must be a string."),
    ({**PING, "method": {}}, "The method must be a string."),
    ({**PING, "params": [1]}, "The params must be an object"),
    ({**PING, "params": "x"}, "The params must be an object"),
    ({"jsonrpc": "2.0", "id": 1}, "must have a method"),
    ("ping", "The message must be a JSON object"),
    ({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": 7}, "The params must be an object"),
    ({"jsonrpc": "2.0", "method": 5}, "The method must be a string."),
]


async def test_http_refuses_what_is_no_message_by_its_fault(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        for body, words in WRONG:
            answer = await http.post("/mcp", json=body, headers=ACCEPT)
            assert (answer.status_code, words in fault(answer)) == (400, True), answer.text
            # The SDK has words of its own in the 2026 era; to name the member, the body would be parsed twice.
            modern = await http.post("/mcp", json=body, headers=MODERN)
            assert (modern.status_code, fault(modern) != "") == (400, True), modern.text


async def test_sse_refuses_what_is_no_message_by_its_fault(edge_home: Path) -> None:
    async with served(edge_home) as (place, edge, http), connect(edge.server, "sse-2025"):
        for body, words in WRONG:
            answer = await http.post(f"{place.base}/messages/", json=body)
            assert (answer.status_code, words in fault(answer)) == (400, True), answer.text


async def test_stdio_refuses_what_is_no_message_by_its_fault() -> None:
    async with served_stdio() as server:
        await server.ask(INITIALIZE)
        for line, words in WRONG:
            if line != "ping":  # which is not JSON there
                refused = await server.ask(line)
                assert (refused["error"]["code"], words in refused["error"]["message"]) == (-32600, True), refused
        # Another id than the request's own may be anything.
        told = await server.ask({**PING, "id": 7, "params": {"id": None, "_meta": {"id": 1.5}}})
        assert (told["id"], told["result"]) == (7, {})


ERRORS: list[dict[str, object]] = [
    {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}},
    {"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}},
    {"jsonrpc": "2.0", "id": 99, "error": {"code": -32603, "message": "of a request that there is not"}},
]


async def test_no_error_of_a_client_is_answered(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http), sse(http) as stream:
        headers = await begin(http)
        for body in ERRORS:
            answer = await http.post("/mcp", json=body, headers=headers)
            assert (answer.status_code, answer.content) == (202, b"")
            assert (await http.post(stream.address, json=body)).status_code == 202
        assert (await stream.ask(http, PING))["result"] == {}
    async with served_stdio() as server:
        await server.ask(INITIALIZE)
        assert server.process.stdin is not None
        for body in ERRORS:
            server.process.stdin.write(json.dumps(body).encode() + b"\n")
            assert (await server.ask(PING))["result"] == {}


@dataclass
class Stream:
    """A stream of SSE, and the address that its first event tells."""

    address: str
    lines: AsyncIterator[str]

    async def ask(self, http: httpx2.AsyncClient, body: Mapping[str, object]) -> Any:  # noqa: ANN401  # a message
        """Post a request, and read its answer."""
        posted = await http.post(self.address, json=body)
        assert posted.status_code == 202, posted.text
        return json.loads(await _data(self.lines))


async def _data(lines: AsyncIterator[str]) -> str:
    async for line in lines:
        if line.startswith("data:"):
            return line.removeprefix("data:").strip()
    raise AssertionError


@asynccontextmanager
async def sse(http: httpx2.AsyncClient, path: str = "/sse", **headers: str) -> AsyncGenerator[Stream]:
    """Open a stream of SSE."""
    async with http.stream("GET", path, headers=headers) as answer:
        lines = answer.aiter_lines()
        yield Stream(await _data(lines), lines)


async def test_params_that_php_writes_as_an_empty_list_are_none(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        headers = await begin(http)
        noted: dict[str, object] = {"jsonrpc": "2.0", "method": "notifications/initialized", "params": []}
        assert (await http.post("/mcp", json=noted, headers=headers)).status_code == 202
        answer = await http.post("/mcp", json={**message("ping"), "params": list[object]()}, headers=headers)
        assert (answer.status_code, answer.json()["result"]) == (200, {})
        async with sse(http) as stream:
            assert (await stream.ask(http, {**PING, "params": list[object]()}))["result"] == {}
    async with served_stdio() as server:
        await server.ask(INITIALIZE)
        assert (await server.ask({**PING, "params": list[object]()}))["result"] == {}


async def test_the_address_that_sse_tells_has_the_toolsets_and_the_prefix_of_a_proxy(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http), sse(http, "/sse?toolsets=core,admin&other=1") as stream:
        assert stream.address.startswith("/messages/?toolsets=core%2Cadmin&session_id=")
        await stream.ask(http, INITIALIZE)
        await http.post(stream.address, json=message("notifications/initialized", {}, None))
        tools = (await stream.ask(http, message("tools/list")))["result"]["tools"]
        assert "get_organization" in {tool["name"] for tool in tools}
    async with served(edge_home, WebOptions(trusted_proxies=("127.0.0.1",))) as (_, _, http):
        for sent, told in (("/agents/", "/agents"), ("/a/b", "/a/b"), ("//evil.example", ""), ("/a b", ""), ("", "")):
            async with sse(http, **{"x-forwarded-prefix": sent}) as stream:
                assert stream.address.startswith(f"{told}/messages/?session_id=")


@pytest.mark.parametrize(
    ("resource", "host", "prefix"),
    [
        ("https://agents.example/house/mcp", "agents.example", "/house"),
        ("https://agents.example:8443/house/mcp/", "AGENTS.example:8443", "/house"),
        ("https://agents.example/mcp", "agents.example", ""),
        ("https://agents.example/house", "agents.example", ""),
        ("https://agents.example/house/mcp", "localhost:8000", ""),
    ],
)
def test_the_address_of_the_resource_tells_what_a_proxy_takes_off(resource: str, host: str, prefix: str) -> None:
    oauth = OAuth(resource=resource, services_provider=cast("ServicesProvider", None))
    assert prefix_of({"headers": [(b"host", host.encode())]}, oauth) == prefix
    assert prefix_of({"headers": [(b"host", host.encode())]}, None) == ""
