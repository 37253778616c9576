"""What a client of Streamable HTTP accepts and speaks: served where it can be, and told what is served where not."""

import gzip
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from agentapi_mcp.edges.mcp.transports.negotiation import EVENTS, JSON, accepted
from agentapi_mcp.testing.http import Ticks
from agentapi_mcp.web.requests import Head
from tests.edges.mcp.test_http import INITIALIZE, META, begin, fault, message, served
from tests.support.peers.openai import OpenAIPeer

MODERN = {"mcp-protocol-version": "2026-07-28"}
ERAS = [{}, MODERN]
# What each Accept stands for: JSON alone, a stream alone, either, nothing that is served.
ACCEPTS = [
    (None, "either"),
    ("", "either"),
    ("*/*", "either"),
    ("application/*, text/*", "either"),
    ("application/json, text/event-stream", "either"),
    ("TEXT/Event-Stream ,\tAPPLICATION/JSON;charset=utf-8", "either"),
    ("application/json;q=0.1, text/event-stream;q=1.0", "either"),
    ("application/json;q=much, */*", "either"),
    ("application/json", JSON),
    ("application/*", JSON),
    ("application/json, text/html, image/*", JSON),
    ("*/*, text/event-stream;q=0", JSON),
    ("text/*;q=0.000, */*;q=0.1", JSON),
    ("text/event-stream", EVENTS),
    ("text/*", EVENTS),
    ("*/*;q=0, text/event-stream", EVENTS),
    ("application/json; q=0, */*", EVENTS),
    ("image/png", "neither"),
    ("json", "neither"),
    ("*/*;q=0", "neither"),
    ("application/json;q=0, text/event-stream;q=0.0", "neither"),
]


def asked(method: str, era: dict[str, str], **params: object) -> tuple[dict[str, object], dict[str, str]]:
    """Return a request and its headers in an era."""
    if not era:
        return message(method, params), {}
    return message(method, params | {"_meta": META}), era | {"mcp-method": method} | _named(params)


def _named(params: dict[str, object]) -> dict[str, str]:
    return {"mcp-name": str(params["name"])} if "name" in params else {}


def read(answer: httpx2.Response) -> Any:  # noqa: ANN401  # a message
    """Return the one message of an answer, as its media type has it."""
    if answer.headers["content-type"].startswith(JSON):
        return answer.json()
    events = [event for event in answer.text.split("\r\n\r\n") if event and not event.startswith(":")]
    return json.loads(events[-1].partition("data: ")[2])


async def send(
    http: httpx2.AsyncClient, accept: str | None, body: object, headers: dict[str, str], method: str = "POST"
) -> httpx2.Response:
    """Send a request with an Accept as it is, or without one."""
    request = http.build_request(method, "/mcp", json=body, headers=headers)
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    return await http.send(request)


@pytest.mark.parametrize("era", ERAS)
async def test_whatever_accept_can_be_served_is(era: dict[str, str], edge_home: Path) -> None:
    async with served(edge_home, peer=OpenAIPeer(pace=Ticks(0.001))) as (_, edge, http):
        for accept, kind in ACCEPTS:
            body, headers = asked("tools/call", era, name="list_agents", arguments={})
            answer = await send(http, accept, body, headers)
            if kind == "neither":
                assert (answer.status_code, JSON in fault(answer), EVENTS in fault(answer)) == (406, True, True), accept
                continue
            assert answer.status_code == 200, (accept, answer.text)
            assert answer.headers["content-type"].partition(";")[0] in ({JSON, EVENTS} if kind == "either" else {kind})
            assert read(answer)["result"]["structuredContent"]["agents"], accept
        # Progress makes a stream of an answer, which has to fit into what is accepted, too.
        for accept, kind in (("*/*", EVENTS), (JSON, JSON), (EVENTS, EVENTS)):
            said = {"agent": "droid", "message": f"{edge.tag} {accept} [[slow]]"}
            body, headers = asked("tools/call", era, name="chat", arguments=said)
            progress = {"progressToken": "p"}
            body["params"] = {"name": "chat", "arguments": said, "_meta": (META if era else {}) | progress}
            answer = await send(http, accept, body, headers)
            assert answer.headers["content-type"].startswith(kind), answer.text
            # Each has the headers that belong to it, once.
            assert answer.headers.get_list("x-accel-buffering") == (["no"] if kind == EVENTS else [])
            assert read(answer)["result"]["structuredContent"]["status"] == "completed"


@pytest.mark.parametrize("era", ERAS)
async def test_an_error_keeps_its_status_whatever_is_accepted(era: dict[str, str], edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        for accept in (JSON, EVENTS, "*/*"):
            body, headers = asked("no/such", era)
            answer = await send(http, accept, body, headers)
            assert (answer.status_code, read(answer)["error"]["code"]) == (404 if era else 200, -32601)
            said = message("notifications/initialized", {}, None)
            assert (await send(http, accept, said, era)).status_code == 202


async def test_a_stream_is_not_asked_for_without_taking_one(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        body, headers = asked("subscriptions/listen", MODERN, notifications={})
        answer = await send(http, JSON, body, headers)
        assert (answer.status_code, f"Accept: {EVENTS}" in fault(answer)) == (406, True)
        session = await begin(http)
        answer = await send(http, JSON, None, session, "GET")
        assert (answer.status_code, f"Accept: {EVENTS}" in fault(answer)) == (406, True)
        old = await http.get("/sse", headers={"accept": JSON})
        assert (old.status_code, f"Accept: {EVENTS}" in fault(old)) == (406, True)
        for accept in ("*/*", EVENTS, "text/*"):
            async with http.stream("GET", "/sse", headers={"accept": accept}) as stream:
                assert (stream.status_code, stream.headers["content-type"].partition(";")[0]) == (200, EVENTS)


async def test_a_page_that_is_looked_for_is_told_how_to_ask(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        for era in ERAS:
            for method in ("GET", "DELETE", "PUT"):
                answer = await send(http, "text/html", None, era, method)
                assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
                assert "Send a POST" in fault(answer)


_TYPES = st.sampled_from([JSON, EVENTS, "application/*", "text/*", "*/*", "image/png", "text/html"])
_WEIGHTS = st.sampled_from(["", ";q=0", "; q=0.0", ";q=1", ";v=1;q=0.3", ";q="])
_RANGES = st.lists(st.tuples(_TYPES, _WEIGHTS), min_size=1, max_size=6, unique_by=lambda each: each[0])


@given(_RANGES, st.randoms(use_true_random=False))
def test_the_narrowest_range_decides_in_any_order(ranges: list[tuple[str, str]], random: Any) -> None:  # noqa: ANN401  # of hypothesis
    allowed = {kind: weight not in {";q=0", "; q=0.0"} for kind, weight in ranges}
    expected = [
        next((allowed[each] for each in (kind, f"{kind.split('/')[0]}/*", "*/*") if each in allowed), False)
        for kind in (JSON, EVENTS)
    ]
    random.shuffle(ranges)
    lines = [(b"accept", f"{kind}{weight}".encode()) for kind, weight in ranges]
    assert list(accepted(Head(lines))) == expected
    assert list(accepted(Head([(b"Accept", b" , ".join(value for _, value in lines))]))) == expected


# --- bodies


@pytest.mark.parametrize(
    ("headers", "offered"),
    [
        ({"content-encoding": "gzip"}, ("accept-encoding", "identity")),
        ({"content-encoding": "BR"}, ("accept-encoding", "identity")),
        ({"content-encoding": "identity, gzip"}, ("accept-encoding", "identity")),
        ({"content-type": "application/json; charset=iso-8859-1"}, ("accept", "application/json; charset=utf-8")),
        ({"content-type": 'application/json; a=b; Charset="UTF-16"'}, ("accept", "application/json; charset=utf-8")),
        ({"content-type": "text/plain"}, ("accept", JSON)),
        ({"content-type": "application/json-rpc"}, ("accept", JSON)),
        ({"content-type": ""}, ("accept", JSON)),
    ],
)
async def test_a_body_that_is_not_read_is_told_what_is(
    headers: dict[str, str], offered: tuple[str, str], edge_home: Path
) -> None:
    content = gzip.compress(json.dumps(message("ping")).encode())
    async with served(edge_home) as (_, _, http):
        for path, era in (("/mcp", {}), ("/mcp", MODERN), ("/messages/?session_id=0", {})):
            answer = await http.post(path, content=content, headers={"content-type": JSON} | era | headers)
            assert (answer.status_code, answer.headers[offered[0]]) == (415, offered[1])
            assert fault(answer).startswith("Send the body as ")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": 'APPLICATION/JSON ; charset="UTF-8"'},
        {"content-type": "application/json;charset=utf8"},
        {"content-type": "application/json; charset=us-ascii"},
        {"content-encoding": "identity"},
        {"content-encoding": "Identity, identity"},
        {"content-encoding": ""},
    ],
)
async def test_a_body_in_utf_8_is_read_however_it_is_called(headers: dict[str, str], edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        answer = await http.post("/mcp", json=message("ping"), headers=headers)
        assert (answer.status_code, answer.json()["result"]) == (200, {})


# --- revisions


@pytest.mark.parametrize("version", ["2099-01-01", "1999-01-01", "", "draft", "2025-06-18,2025-06-18"])
async def test_a_revision_that_is_not_served_is_told_which_are(version: str, edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        session = await begin(http)
        shapes: list[tuple[str, object, dict[str, str], object]] = [
            ("POST", message("ping"), {}, 1),
            ("POST", message("ping", {"_meta": META | {"io.modelcontextprotocol/protocolVersion": version}}), {}, 1),
            ("POST", message("tools/list", {}), session, 1),
            ("POST", message("notifications/initialized", {}, None), {}, None),
            ("POST", [message("ping")], {}, None),
            ("GET", None, session, None),
            ("DELETE", None, session, None),
        ]
        for method, body, more, key in shapes:
            answer = await send(http, "*/*", body, more | {"mcp-protocol-version": version}, method)
            assert answer.status_code == 400, (method, body)
            error = answer.json()["error"]
            assert (answer.json()["id"], error["code"]) == (key, -32022)
            assert error["data"] == {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": version}
            assert all(each in error["message"] for each in KNOWN_PROTOCOL_VERSIONS)
        long = await send(http, "*/*", message("ping"), {"mcp-protocol-version": "9" * 1_000})
        assert long.json()["error"]["data"]["requested"] == "9" * 40
        # The session is there still.
        assert (await send(http, "*/*", message("ping"), session)).status_code == 200


async def test_initialize_negotiates_whatever_its_header_says(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        for asked_for, header in (("2099-01-01", "2099-01-01"), ("2099-01-01", None), ("2025-06-18", "draft")):
            body = message("initialize", INITIALIZE | {"protocolVersion": asked_for})
            answer = await send(http, "*/*", body, {} if header is None else {"mcp-protocol-version": header})
            chosen = answer.json()["result"]["protocolVersion"]
            assert chosen == (asked_for if asked_for in KNOWN_PROTOCOL_VERSIONS else "2025-11-25")
            assert answer.headers["mcp-session-id"]


async def test_two_revisions_in_one_request_are_none(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        for first, second in (("2025-06-18", "2025-11-25"), ("2025-06-18", "2026-07-28"), ("2026-07-28", "1999-01-01")):
            headers = [("mcp-protocol-version", first), ("mcp-protocol-version", second)]
            answer = await http.post("/mcp", json=message("ping"), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)
            assert "MCP-Protocol-Version" in fault(answer)


# --- batches


async def test_a_batch_is_refused_in_words_and_nothing_of_it_is_done(edge_home: Path) -> None:
    async with served(edge_home) as (_, edge, http):
        session = await begin(http)
        chat = message("tools/call", {"name": "chat", "arguments": {"agent": "droid", "message": edge.tag}})
        for batch in ([message("ping"), chat], [chat], [message("notifications/initialized", {}, None)], []):
            for more in ({}, {"mcp-protocol-version": "2025-03-26"}, session):
                answer = await send(http, "*/*", batch, more)
                assert (answer.status_code, answer.json()["id"]) == (400, None)
                assert "send each message by itself" in fault(answer)
            assert (await send(http, "*/*", batch, MODERN)).status_code == 400
        assert edge.peer.exchanges == []
