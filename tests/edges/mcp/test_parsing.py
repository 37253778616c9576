"""What it costs to read a request: how often its body is parsed, and what is refused before it is."""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from mcp_types import HEADER_MISMATCH, INVALID_REQUEST

from agentapi_mcp.core.conversations.session_facts import SessionFilter
from tests.edges.mcp.test_http import ACCEPT, META, MODERN, fault, message, served

MARK = "parsed-how-often"


class Parses:
    """Counts how often a document with the mark is parsed in this thread, by Python's parser and by pydantic's."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Hear of a call."""
        if event == "call":
            self.count += frame.f_code is json.loads.__code__ and MARK in str(frame.f_locals["s"])
        elif event == "c_call":
            self.count += getattr(argument, "__name__", "") in {"validate_json", "from_json"}


@contextmanager
def parses() -> Generator[Parses]:
    """Count within the context."""
    counted, before = Parses(), sys.getprofile()
    sys.setprofile(counted)
    try:
        yield counted
    finally:
        sys.setprofile(before)


def tool_call(era: str, tool: str = "get_health", **arguments: object) -> tuple[dict[str, object], dict[str, str]]:
    """Write a call of either era with the mark in it, and its headers."""
    meta = {"_meta": META} if era == "2026" else {}
    headers = {**MODERN, "mcp-method": "tools/call", "mcp-name": tool} if era == "2026" else ACCEPT
    return message("tools/call", {"name": tool, "arguments": arguments, "mark": MARK, **meta}), dict(headers)


@pytest.mark.parametrize("scoped", [False, True], ids=["operator", "scoped-token"])
@pytest.mark.parametrize("era", ["2025", "2026"])
async def test_a_body_is_parsed_once(era: str, scoped: bool, edge_home: Path) -> None:  # noqa: FBT001  # a parameter
    async with served(edge_home) as (_, edge, http):
        made = await edge.services.personal_tokens.create(edge.services.principal, edge.tag, scopes=("read", "chat"))
        body, headers = tool_call(era)
        if scoped:
            headers["authorization"] = f"Bearer {made.secret}"
        with parses() as counted:
            answer = await http.post("/mcp", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert '"result"' in answer.text
        assert counted.count == 1


COSTLY = {
    "small arrays": "[" + "[]," * 1_000_000 + "1]",
    "nested arrays": "[" + ("[" * 90 + "]" * 90 + ",") * 20_000 + "1]",
    "numbers": "[" + "1," * 1_000_000 + "1]",
    "texts": "[" + '"",' * 1_000_000 + "1]",
    "names": "{" + '"a":1,' * 500_000 + '"b":1}',
}


@pytest.mark.parametrize("era", ["2025", "2026"])
@pytest.mark.parametrize("costly", COSTLY.values(), ids=COSTLY)
async def test_what_would_cost_is_refused_before_it_is_parsed(costly: str, era: str, edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        body, headers = tool_call(era)
        text = json.dumps(body).replace('"arguments": {', '"arguments": {"costly": ' + costly)
        with parses() as counted:
            answer = await http.post("/mcp", content=text, headers={**headers, "content-type": "application/json"})
            also = await http.post(
                "/messages/?session_id=00", content=text, headers={"content-type": "application/json"}
            )
        assert (answer.status_code, also.status_code) == (413, 413)
        assert answer.json()["error"]["code"] == INVALID_REQUEST
        assert fault(answer).startswith("The body has more than ")
        assert counted.count == 0


@pytest.mark.parametrize("era", ["2025", "2026"])
async def test_a_message_may_be_nothing_but_brackets(era: str, edge_home: Path) -> None:
    async with served(edge_home) as (_, edge, http):
        body, headers = tool_call(era, "chat", agent="guide", message=edge.tag + '[{,"' * 200_000)
        answer = await http.post("/mcp", json=body, headers=headers)
        assert answer.status_code == 200
        found = await edge.services.sessions.list_(edge.services.principal, SessionFilter(query=edge.tag))
        assert len(found.items) == 1


async def test_the_headers_of_a_request_cannot_hide_what_it_calls(edge_home: Path) -> None:
    async with served(edge_home) as (_, edge, http):
        reader = await edge.services.personal_tokens.create(edge.services.principal, edge.tag, scopes=("read",))
        body, headers = tool_call("2026", "chat", agent="guide", message=edge.tag)
        headers["authorization"] = f"Bearer {reader.secret}"
        assert (await http.post("/mcp", json=body, headers=headers)).status_code == 403
        for hidden in ({"mcp-name": "get_health"}, {"mcp-method": "ping"}, {"mcp-name": "=?base64?Y2hhdA?="}):
            answer = await http.post("/mcp", json=body, headers={**headers, **hidden})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, HEADER_MISMATCH)
        assert (await edge.services.sessions.list_(edge.services.principal, SessionFilter(query=edge.tag))).items == ()
