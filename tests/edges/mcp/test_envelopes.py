"""A message that JSON-RPC does not allow is refused in words that name its fault, by each transport; none waits."""

import json
from collections.abc import Mapping
from pathlib import Path

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


async def test_params_that_php_writes_as_an_empty_list_are_none(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        headers = await begin(http)
        noted: dict[str, object] = {"jsonrpc": "2.0", "method": "notifications/initialized", "params": []}
        assert (await http.post("/mcp", json=noted, headers=headers)).status_code == 202
        answer = await http.post("/mcp", json={**message("ping"), "params": list[object]()}, headers=headers)
        assert (answer.status_code, answer.json()["result"]) == (200, {})
    async with served_stdio() as server:
        await server.ask(INITIALIZE)
        assert (await server.ask({**PING, "params": list[object]()}))["result"] == {}
