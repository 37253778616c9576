"""A client may send anything: it is answered in our own words, and the next one is served."""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import cast

import httpx2
import pytest
from hypothesis import strategies as st

from agentapi_mcp.base.json_bounds import BOUNDS
from agentapi_mcp.core.identity.cursors import encode_cursor
from tests.edges.mcp.test_http import META, MODERN, message, served
from tests.edges.mcp.test_stdio import INITIALIZE
from tests.edges.mcp.test_stdio import served as served_stdio
from tests.support.connect import call, connect, fields_of
from tests.support.hostile import TEXTS, holds, json_values

FOREIGN = (
    "pydantic",
    "validation error",
    "Traceback",
    "asyncpg",
    "Internal error",
    "internal error",
    "Error:",
    "type=",
    "refused this",
)
METHODS = st.sampled_from(
    [
        *("ping", "tools/list", "tools/call", "resources/list", "resources/read", "resources/templates/list"),
        *("prompts/list", "prompts/get", "completion/complete", "logging/setLevel", "initialize", "server/discover"),
        *("notifications/cancelled", "notifications/initialized", "roots/list", "resources/subscribe"),
    ]
)
KEYS = (
    *("jsonrpc", "id", "method", "params", "result", "error", "name", "arguments", "uri", "cursor", "ref", "argument"),
    *("value", "_meta", "progressToken", "requestId", "protocolVersion", "capabilities", "clientInfo", "version"),
)
WORDS = METHODS | st.sampled_from(["2.0", "chat", "ask_agent", "ref/prompt", "ref/resource", "2025-11-25"])
Post = Callable[[object], Awaitable[httpx2.Response]]


def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> bool:
    return not [record for record in caplog.records if record.levelno >= logging.ERROR]


def words_of(answer: httpx2.Response) -> str:
    """Return what a JSON-RPC answer says, whatever it is."""
    kind = answer.headers["content-type"]
    said = json.loads(answer.text.rpartition("data: ")[2]) if kind == "text/event-stream" else answer.json()
    assert said["jsonrpc"] == "2.0"
    if "error" in said:
        assert isinstance(said["error"]["code"], int)
        assert said["error"]["message"]
        return json.dumps(said["error"])
    return json.dumps(said["result"])


def in_our_words(words: str) -> bool:
    return not [word for word in FOREIGN if word in words]


# --- what a tool, a prompt, a resource or a completion is given


async def test_any_arguments_of_any_tool_are_answered_in_our_words(
    edge_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(edge_home) as (_, edge, http), connect(edge.server, "http-2026") as client:
        begun = fields_of(await call(client, "chat", agent="droid", message=f"{edge.tag} [[chunks1]]"))
        scope = json.dumps(["sessions", None, None])
        wrong = [
            encode_cursor(scope, edge.services.principal, position) for position in ([], ["x", "y"], ["1", "2", "3"])
        ]
        near = st.sampled_from([begun["session_id"], begun["turn_id"], "droid", "gpt-4o", "markdown", 0, 1, *wrong])
        tools = (await client.list_tools()).tools

        def arguments(schema: Mapping[str, object]) -> st.SearchStrategy[dict[str, object]]:
            names = sorted(cast("dict[str, object]", schema["properties"]))
            needed = cast("list[str]", schema.get("required", []))
            values = near | json_values()
            return st.dictionaries(st.sampled_from(names) | TEXTS, values, max_size=4) | st.fixed_dictionaries(
                dict.fromkeys(needed, near),
                optional=dict.fromkeys([name for name in names if name not in needed], values),
            )

        calls = st.sampled_from(tools).flatmap(lambda tool: st.tuples(st.just(tool.name), arguments(tool.input_schema)))

        async def check(given: tuple[str, dict[str, object]]) -> None:
            name, arguments = given
            content = json.dumps(message("tools/call", {"name": name, "arguments": arguments}))
            answer = await http.post("/mcp", content=content, headers=JSON)
            if any(len(number) > BOUNDS.number for number in re.findall("[0-9]+", content)):
                assert (answer.status_code, "has a number of more than" in words_of(answer)) == (413, True)
                return
            assert answer.status_code == 200, answer.text
            said = answer.json()["result"]
            text = said["content"][0]["text"]
            assert in_our_words(text), text
            assert not said.get("isError") or text.rstrip().endswith((".", "]"))

        await holds(
            calls,
            check,
            examples=150,
            also=[
                ("list_sessions", {"agent": "\0"}),
                ("list_sessions", {"agent": "\ud800"}),
                ("list_sessions", {"query": "\ud800"}),
                ("list_models", {"query": "\0", "agent": "\ud800"}),
                ("get_health", {"agent": "\0\ud800"}),
                *(("list_sessions", {"cursor": cursor}) for cursor in wrong),
                ("chat", {"message": "x", "temperature": 10**400, "max_tokens": 10**400}),
            ],
        )
        assert no_error_is_logged(caplog)


async def test_any_resource_prompt_and_completion_is_answered_in_our_words(
    edge_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(edge_home) as (_, edge, http):
        session = await begun_session(http, edge.tag)
        uris = st.sampled_from(
            [
                "agentapi://catalog/agents",
                f"agentapi://chat/sessions/{session}/transcript",
                f"agentapi://chat/sessions/{session}/transcript.json?cursor=",
                f"agentapi://chat/sessions/{'0' * 32}/transcript?cursor=%ff%00",
                "agentapi://chat/sessions/{session_id}/transcript",
            ]
        )
        texts = TEXTS | uris | st.tuples(uris, TEXTS).map("".join) | st.just(session)
        named = st.sampled_from(["ask_agent", "continue_session", "sum_up_session"]) | TEXTS
        argument = st.sampled_from(["message", "session_id", "agent"]) | TEXTS
        requests: st.SearchStrategy[tuple[str, object]] = st.one_of(
            st.fixed_dictionaries({"uri": texts}).map(lambda said: ("resources/read", said)),
            st.fixed_dictionaries({"cursor": texts}).map(lambda said: ("resources/list", said)),
            st.fixed_dictionaries({"name": named, "arguments": st.dictionaries(argument, texts, max_size=3)}).map(
                lambda said: ("prompts/get", said)
            ),
            st.fixed_dictionaries(
                {
                    "ref": named.map(lambda name: {"type": "ref/prompt", "name": name})
                    | texts.map(lambda uri: {"type": "ref/resource", "uri": uri}),
                    "argument": st.fixed_dictionaries({"name": argument, "value": texts}),
                }
            ).map(lambda said: ("completion/complete", said)),
        )

        async def check(request: tuple[str, object]) -> None:
            method, params = request
            answer = await http.post("/mcp", content=json.dumps(message(method) | {"params": params}), headers=JSON)
            assert answer.status_code == 200
            assert in_our_words(words_of(answer)), answer.text

        await holds(requests, check, examples=100)
        assert no_error_is_logged(caplog)


async def begun_session(http: httpx2.AsyncClient, tag: str) -> str:
    params = {"name": "chat", "arguments": {"agent": "droid", "message": f"{tag} [[chunks1]]"}}
    answer = await http.post("/mcp", json=message("tools/call", params), headers=JSON)
    return str(answer.json()["result"]["structuredContent"]["session_id"])


# --- what stands in the body and in the headers

JSON = {"accept": "application/json", "content-type": "application/json"}
ENVELOPE = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "id": json_values(), "method": WORDS | TEXTS},
    optional={"params": json_values(KEYS, WORDS), "extra": json_values()},
)
BODIES = (
    st.binary()
    | (ENVELOPE | json_values(KEYS, WORDS) | st.lists(ENVELOPE, max_size=2)).map(lambda said: json.dumps(said).encode())
    | ENVELOPE.map(lambda said: json.dumps(said).encode()[:-1])
)
BAD_BODIES = [
    b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}',
    b'{"jsonrpc":"2.0","id":9999999999999999999999,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
    b'{"jsonrpc":"2.0","id":"\\ud800","method":"\\ud800"}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\\ud800","arguments":{}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"chat","arguments":' + b'{"a":' * 90_000,
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":' + b"[" * 900 + b"]" * 900 + b"}}",
    json.dumps(
        INITIALIZE
        | {
            "params": {
                "protocolVersion": "\ud800",
                "capabilities": {},
                "clientInfo": {"name": "\ud800", "version": "\0"},
            }
        }
    ).encode(),
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":[],"reason":{}}}',
    b'{"jsonrpc":"2.0","id":1,"result":{"a":NaN}}',
    b'{"jsonrpc":"2.0","id":1,"error":5}',
    b"\xef\xbb\xbf{}",
    b'"\xff"',
]


@pytest.mark.parametrize("era", ["2025", "2026"])
async def test_any_body_is_answered_and_the_next_request_is_served(
    era: str, edge_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    headers = JSON if era == "2025" else JSON | MODERN
    async with served(edge_home) as (_, _, http):

        async def check(body: bytes) -> None:
            answer = await http.post("/mcp", content=body, headers=headers)
            assert answer.status_code < 500, answer.text
            assert answer.status_code in {200, 202, 400, 404, 413}  # 413: nested too deeply
            if answer.status_code != 202:
                assert in_our_words(words_of(answer)), answer.text

        await holds(BODIES, check, examples=150, also=BAD_BODIES)
        assert (await http.post("/mcp", json=message("ping"), headers=JSON)).json()["result"] == {}
        assert no_error_is_logged(caplog)


HEADERS: tuple[str, ...] = (
    "last-event-id", "mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name", "traceparent", "tracestate",
    "x-request-id", "content-type", "accept", "baggage", "origin", "authorization",
)  # fmt: skip
_UNSENT = {*range(9), *range(10, 32), 127}  # no client can put them into a header
VALUES = st.binary(max_size=60).filter(lambda value: not _UNSENT & set(value)) | st.sampled_from(
    [
        b"", b"2026-07-28", b"2025-11-25", b"1900-01-01", b"application/json", b"*/*", b"text/event-stream;q=\xff",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00",
        b"ff-" + b"f" * 32, b"a=b," * 200, b"=?utf-8?b?//8=?=", b"0", b"%00",
    ]
)  # fmt: skip


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_any_header_is_answered_and_the_next_request_is_served(
    method: str, edge_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(edge_home) as (_, _, http):

        async def check(given: dict[str, bytes]) -> None:
            sent = [(name.encode(), value.strip()) for name, value in {**GOOD, **given}.items()]
            body = json.dumps(message("ping", {"_meta": META})) if method == "POST" else None
            answer = await http.request(method, "/mcp", content=body, headers=sent)
            assert answer.status_code < 500, answer.text
            if answer.content:  # the SDK refuses methods that the newer protocol does not have without a word
                assert in_our_words(words_of(answer)), answer.text

        await holds(st.dictionaries(st.sampled_from(HEADERS), VALUES, max_size=4), check, examples=100)
        assert (await http.post("/mcp", json=message("ping"), headers=JSON)).json()["result"] == {}
        assert no_error_is_logged(caplog)


GOOD = {"accept": b"application/json", "content-type": b"application/json"}


async def test_any_body_for_an_sse_stream_is_answered_and_the_next_request_is_served(
    edge_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(edge_home) as (_, _, http), http.stream("GET", "/sse") as stream:
        lines = stream.aiter_lines()
        place = ""
        while not place.startswith("data: "):
            place = await anext(lines)
        place = place.removeprefix("data: ")
        caplog.set_level(logging.DEBUG)
        said = await http.post(
            place, content=b'{"jsonrpc": "2.0", "id": 1, "method": ["a private word"]}', headers=JSON
        )
        assert said.status_code == 400
        assert "a private word" not in caplog.text
        caplog.set_level(logging.INFO)

        async def check(body: bytes) -> None:
            answer = await http.post(place, content=body, headers=JSON)
            assert answer.status_code in {202, 400, 413}, answer.text  # 413: nested too deeply
            assert in_our_words(answer.text), answer.text

        await holds(BODIES, check, examples=60, also=BAD_BODIES)
        await http.post(place, json=message("ping") | {"id": "the last"}, headers=JSON)
        while '"the last"' not in await anext(lines):
            pass
        assert no_error_is_logged(caplog)


@pytest.mark.parametrize("place", ["/messages/", "/messages/?session_id=%ff%00", f"/messages/?session_id={'0' * 32}"])
async def test_a_message_for_no_sse_stream_is_refused(place: str, edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        assert (await http.post(place, json=message("ping"), headers=JSON)).status_code in {400, 404}


# --- lines on stdin


async def test_any_line_on_stdin_is_answered_and_the_next_one_is_served() -> None:
    async with served_stdio() as server:
        await server.ask(INITIALIZE)
        assert server.process.stdin is not None
        stdin = server.process.stdin
        numbers = iter(range(10_000_000))

        async def check(line: bytes) -> None:
            ping = f"ping {next(numbers)}"
            stdin.write(line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")
            answer = await server.ask({"jsonrpc": "2.0", "id": ping, "method": "ping"})
            while answer.get("id") != ping:
                assert answer["jsonrpc"] == "2.0"
                assert in_our_words(json.dumps(answer)), answer
                answer = await server.read()
            assert answer["result"] == {}

        await holds(BODIES, check, examples=150, also=[*BAD_BODIES, b"\xff\xfe", b"", b"\0"])
