"""The server declares what it serves, and acknowledges nothing else."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentapi_mcp.app.mcp_options import Extensions, declare_extensions
from agentapi_mcp.base.ids import OrgId, new_id
from agentapi_mcp.core.access.models import Issuer, Service, SignInRules
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.settings import Settings
from tests.edges.mcp.test_http import ACCEPT, INITIALIZE, META, MODERN, message, served

DISCOVERS = MODERN | {"mcp-method": "server/discover"}
LISTENS = MODERN | {"mcp-method": "subscriptions/listen"}
NAME = "io.modelcontextprotocol/serverInfo"
LISTS = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}


async def discovered(http: httpx2.AsyncClient) -> dict[str, Any]:
    """Ask what the server is."""
    answer = await http.post("/mcp", json=message("server/discover", {"_meta": META}), headers=DISCOVERS)
    return dict(answer.json()["result"])


async def test_only_lists_that_change_are_acknowledged(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        asked = message("subscriptions/listen", {"_meta": META, "notifications": LISTS})
        async with http.stream("POST", "/mcp", json=asked, headers=LISTENS) as answer:
            first = await anext(line async for line in answer.aiter_lines() if line.startswith("data: {"))
            said = json.loads(first.removeprefix("data: "))
        assert said["params"]["notifications"] == {"resourcesListChanged": True}
        declared = (await discovered(http))["capabilities"]
        assert [declared[name]["listChanged"] for name in ("tools", "prompts", "resources")] == [False, False, True]


async def test_who_asks_is_told_all_of_the_server_and_other_results_are_short(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        about = (await discovered(http))["_meta"][NAME]
        begun = (await http.post("/mcp", json=message("initialize", INITIALIZE), headers=ACCEPT)).json()["result"]
        assert begun["serverInfo"] == about
        assert set(about) == {"name", "title", "version", "description", "icons"}
        (icon,) = about["icons"]
        assert icon["src"].startswith("data:image/svg+xml;base64,")
        headers = MODERN | {"mcp-method": "tools/list"}
        listed = (await http.post("/mcp", json=message("tools/list", {"_meta": META}), headers=headers)).json()
        assert set(listed["result"]["_meta"][NAME]) == {"name", "title", "version"}


CREDENTIALS = "io.modelcontextprotocol/oauth-client-credentials"
RESOURCE = "https://agents.example/mcp"
SERVICES = (Service(org_id=OrgId(new_id()), client_id="nightly"),)


@pytest.mark.parametrize(
    ("resource", "services", "declared"),
    [(RESOURCE, SERVICES, {CREDENTIALS}), (RESOURCE, (), set[str]()), (None, SERVICES, set[str]())],
)
async def test_tokens_of_programs_are_declared_while_they_are_taken(
    resource: str | None, services: tuple[Service, ...], declared: set[str], edge_home: Path
) -> None:
    settings, extensions = Settings(resource_url=resource), Extensions(other={})
    rules = SignInRules(issuers=(Issuer(issuer="https://a.example", services=services),))
    async with served(edge_home, mcp=McpOptions(extensions=extensions)) as (_, _, http):
        declare_extensions(extensions, settings, rules)
        found = (await discovered(http))["capabilities"]["extensions"]
        assert set(found) == declared | {"other", "io.modelcontextprotocol/tasks"}
        declare_extensions(extensions, settings, SignInRules())
        assert CREDENTIALS not in (await discovered(http))["capabilities"]["extensions"]
