"""Which tools a client sees: by its token, by the address that it calls, and with the prefix of the server."""

from pathlib import Path
from typing import cast

import httpx2
import pytest

import agentapi_mcp.__main__ as entry
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.edges.mcp.front.answers import Front
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.edges.mcp.tools.registry import find_tools
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from agentapi_mcp.settings import Settings, with_tool_prefix
from agentapi_mcp.web.application import WebOptions
from tests.edges.mcp.test_http import ACCEPT, META, MODERN, fault, message, served
from tests.support.connect import call, connect, fields_of, open_edge, text_of
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer

CORE = [tool.spec.name for tool in find_tools(["core"])]
ADMIN = [tool.spec.name for tool in find_tools(["admin"])]
LISTS = MODERN | {"mcp-method": "tools/list"}


async def listed(http: httpx2.AsyncClient, path: str = "/mcp", **headers: str) -> dict[str, object]:
    """List the tools in 2026-07-28, and see that an older client is given the same."""
    answer = await http.post(path, json=message("tools/list", {"_meta": META}), headers=LISTS | headers)
    old = await http.post(path, json=message("tools/list"), headers=ACCEPT | headers)
    assert old.json()["result"]["tools"] == answer.json()["result"]["tools"]
    return cast("dict[str, object]", answer.json()["result"])


def names(result: dict[str, object]) -> list[str]:
    """Return the names in a list of tools."""
    return [tool["name"] for tool in cast("list[dict[str, str]]", result["tools"])]


async def test_a_token_chooses_the_toolsets_of_its_clients_and_gives_no_right(edge_home: Path) -> None:
    settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, {}) as app:
        services = await app.services_provider.services()
        edge = mcp_application(create_server(app.services_provider, McpOptions()), WebOptions(needs_token=True))

        async def token(*toolsets: str) -> dict[str, str]:
            tokens = services.personal_tokens
            made = await tokens.create(services.principal, new_id().hex, toolsets=toolsets or None)
            assert made.token in await tokens.list_(services.principal)
            return {"authorization": f"Bearer {made.secret}"}

        async with serve_app(edge) as place, httpx2.AsyncClient(base_url=place.base, timeout=25) as http:
            usual, more = await token(), await token("core", "admin", "of a newer program")
            assert names(await listed(http, **usual)) == CORE
            answer = await listed(http, **more)
            assert names(answer) == [*CORE, *ADMIN]
            assert (answer["cacheScope"], (await listed(http, **usual))["cacheScope"]) == ("private", "public")
            assert names(await listed(http, "/mcp?toolsets=admin", **more)) == ADMIN
            for path, own, said in (
                ("/mcp?toolsets=preferences", more, "names the toolsets preferences; there are core, admin"),
                ("/mcp?toolsets=nothing", usual, "names the toolsets nothing; there are core, admin, preferences"),
                ("/mcp?toolsets=,", usual, "names the toolsets none"),
            ):
                refused = await http.post(path, json=message("tools/list"), headers=ACCEPT | own)
                assert said in fault(refused)
            # The token has no scope for it, as it had none before.
            asked = message("tools/call", {"name": "get_organization", "arguments": {}})
            denied = await http.post("/mcp", json=asked, headers=ACCEPT | more)
            assert (denied.status_code, "'admin'" in fault(denied)) == (403, True)
            hidden = await http.post("/mcp", json=asked, headers=ACCEPT | (await token("core")))
            assert hidden.status_code == 403


async def test_an_address_chooses_the_toolsets_where_nobody_else_does(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        assert names(await listed(http)) == names(await listed(http, "/mcp?other=1")) == CORE
        assert names(await listed(http, "/mcp?toolsets=core,admin")) == [*CORE, *ADMIN]
        many = "&".join(f"other{number}=1" for number in range(100))
        assert names(await listed(http, f"/mcp?{many}&toolsets=admin")) == ADMIN
        refused = await http.post("/mcp?toolsets=none", json=message("tools/list"), headers=ACCEPT)
        assert fault(refused) == "The address names the toolsets none; there are core, admin, preferences, usage."
        asked = message("tools/call", {"name": "get_organization", "arguments": {}})
        answer = await http.post("/mcp?toolsets=admin", json=asked, headers=ACCEPT)
        assert "structuredContent" in answer.json()["result"]
        hidden = fault(await http.post("/mcp", json=asked, headers=ACCEPT))
        assert hidden.startswith("There is no tool 'get_organization'; there are chat, ")
        assert hidden.endswith(
            " The toolset admin has it, which is not chosen here: AGENTAPI_TOOLSETS=core,admin does so."
        )
        unknown = message("tools/call", {"name": "get_costs", "arguments": {}})
        assert fault(await http.post("/mcp", json=unknown, headers=ACCEPT)).endswith(", get_health.")


async def test_a_prefix_is_before_the_name_of_every_tool(edge_home: Path) -> None:
    options = McpOptions(tool_prefix="house_", toolsets=frozenset({"core", "admin"}))
    async with open_edge(edge_home, OpenAIPeer(), options) as edge, connect(edge.server, "stdio-2026") as client:
        found = [tool.name for tool in (await client.list_tools()).tools]
        assert found == [f"house_{name}" for name in (*CORE, *ADMIN)]
        turn = fields_of(await call(client, "house_chat", agent="droid", message=edge.tag))
        assert turn["status"] == "completed"
        assert "needs the argument 'message'" in text_of(await call(client, "house_chat"))
        # What answers say is the next step, is one, and the instructions say how the tools are called.
        again = fields_of(await call(client, "get_turn", turn_id=turn["turn_id"]))
        assert again["turn_id"] == turn["turn_id"]
        assert "every tool begins with house_, as in house_chat." in str(client.instructions)


@pytest.mark.parametrize("prefix", ["", "x" * 21, "a b", "ä_", "a.b"])
def test_a_prefix_that_names_of_tools_cannot_have_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="--tool-prefix must be 1 to 20 letters"):
        with_tool_prefix(Settings(), prefix)


def test_all_names_fit_into_those_that_providers_take() -> None:
    """As Claude Code makes them, with the longest prefix and the usual name of the server."""
    longest = max(len(tool.spec.name) for tool in find_tools(toolset_names()))
    assert len("mcp__agentapi__") + 20 + longest <= 64
    assert len("mcp____") + 39 + longest <= 64  # the longest `connect --name`, since there is `record_interaction`


def test_the_front_leaves_names_with_a_prefix_to_the_server() -> None:
    assert Front.load("core", "") is not None
    assert Front.load("core", "house_") is None


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {}),
        (["--toolsets", "core"], {"--toolsets": "core"}),
        (["--tool-prefix=a_", "--toolsets=core"], {"--toolsets": "core", "--tool-prefix": "a_"}),
        (["--toolsets", "core", "--tool-prefix", "a_"], {"--toolsets": "core", "--tool-prefix": "a_"}),
        (["--toolsets"], None),
        (["--toolsets=core", "--toolsets=admin"], None),
        (["serve", "--toolsets=core"], None),
        (["--help"], None),
    ],
)
def test_the_options_of_the_server_over_stdio_are_read_without_a_library(
    words: list[str], options: dict[str, str] | None
) -> None:
    assert entry._options(words) == options  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # what imports next to nothing
