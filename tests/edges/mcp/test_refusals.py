"""What does not fit is refused in our own words, over every transport: no library speaks to a client."""

import httpx2
import pytest

from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.web.application import WebOptions
from tests.edges.mcp.test_http import ACCEPT, META, MODERN, message
from tests.edges.mcp.test_tool_schemas import NAMES, NoServices
from tests.support.connect import LINKS, Link, call, connect, text_of
from tests.support.edges import mcp_application, serve_app

_FOREIGN = ("pydantic", "http://", "https://", "validation error", "Traceback", "type=")


@pytest.mark.parametrize("link", LINKS)
async def test_an_argument_that_a_tool_does_not_have_is_refused_by_each(link: Link) -> None:
    async with connect(create_server(NoServices(), McpOptions()), link) as client:
        for name in NAMES:
            refused = await call(client, name, mesage="a typing error")
            assert refused.is_error
            assert "has no argument 'mesage'; it takes" in text_of(refused)


@pytest.mark.parametrize("link", LINKS)
async def test_a_value_that_does_not_fit_is_refused_in_our_words(link: Link) -> None:
    async with connect(create_server(NoServices(), McpOptions()), link) as client:
        for given in ({"message": 5}, {"message": "hi", "wait_seconds": "soon"}, {"message": ["hi"]}, {}):
            refused = await call(client, "chat", **given)
            assert refused.is_error
            assert not [word for word in _FOREIGN if word in text_of(refused)]


@pytest.mark.parametrize("era", ["2025", "2026"])
@pytest.mark.parametrize(
    ("method", "name", "params"),
    [
        ("tools/call", "chat", {"name": "chat", "arguments": "hi"}),
        ("prompts/get", "ask_agent", {"name": "ask_agent", "arguments": {"message": 5}}),
        ("completion/complete", None, {"ref": {"type": "ref/nothing"}, "argument": {}}),
    ],
)
async def test_parameters_of_a_wrong_shape_are_refused_without_a_librarys_words(
    method: str, name: str | None, params: dict[str, object], era: str
) -> None:
    headers = ACCEPT if era == "2025" else MODERN | {"mcp-method": method} | ({"mcp-name": name} if name else {})
    said = params if era == "2025" else params | {"_meta": META}
    edge = mcp_application(create_server(NoServices(), McpOptions()), WebOptions())
    async with serve_app(edge) as served, httpx2.AsyncClient() as http:
        answer = await http.post(served.mcp, json=message(method, said), headers=headers)
    assert answer.json()["error"]["code"] == -32602
    assert not [word for word in _FOREIGN if word in answer.text]
