"""Which paths there are, and what is said at all others: to clients that look for a sign-in, and behind proxies."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.oauth import WELL_KNOWN, OAuth, metadata_url
from tests.edges.mcp.test_http import INITIALIZE, MODERN, fault, message
from tests.support.connect import open_edge
from tests.support.edges import OpenServices, mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer

TOKEN = "0123456789abcdef-a-token"  # noqa: S105  # of this test alone
OWN = {"authorization": f"Bearer {TOKEN}"}
NOWHERE = [
    "/",
    "/favicon.ico",
    "/mcpx",
    "/MCP",
    "/mcp/more",
    "/mcp/.well-known/openid-configuration",
    "/sse/more",
    "/messages/more",
    "/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server",
    "/.well-known/oauth-authorization-server/mcp",
    "/.well-known/mcp.json",
    "/register",
    "/authorize",
    "/token",
    f"{WELL_KNOWN}/elsewhere",
    f"{WELL_KNOWN}x",
]


@asynccontextmanager
async def served_as(home: Path, resource: str | None) -> AsyncGenerator[httpx2.AsyncClient]:
    """Serve with a token, and as this resource, if there is one."""
    async with open_edge(home, OpenAIPeer()) as edge:
        oauth = None if resource is None else OAuth(resource=resource, services_provider=OpenServices(edge.services))
        web = mcp_application(edge.server, WebOptions(token=TOKEN, oauth=oauth))
        async with serve_app(web) as place, httpx2.AsyncClient(base_url=place.base, timeout=30) as http:
            yield http


@pytest.mark.parametrize("resource", [None, "https://agents.example.com/mcp"])
async def test_what_is_not_there_is_told_to_whoever_asks(resource: str | None, edge_home: Path) -> None:
    async with served_as(edge_home, resource) as http:
        for path in NOWHERE:
            for headers in ({}, OWN, {"authorization": "Bearer wrong"}):
                answer = await http.get(path, headers=headers)
                assert (answer.status_code, "www-authenticate" in answer.headers) == (404, False), path
                assert answer.headers["x-request-id"]
            sent = [
                await http.post(path, json={"redirect_uris": []}),
                await http.post(path, data={"grant_type": "x"}),
                await http.post(path, content=b"\xff"),
            ]
            assert {answer.status_code for answer in sent} == {404}, path
        assert "/mcp" in (await http.get("/")).json()["error"]
        for path in ("/mcp", "/mcp/", "/sse", "/sse/", "/messages", "/messages/"):
            assert (await http.post(path, json=message("ping"))).status_code == 401, path


async def test_a_page_can_read_that_nothing_is_there_and_others_cannot_ask(edge_home: Path) -> None:
    async with served_as(edge_home, None) as http:
        path, ours = "/.well-known/oauth-authorization-server", {"origin": "http://localhost:6274"}
        answer = await http.get(path, headers=ours)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (404, ours["origin"])
        asked = {"access-control-request-method": "GET", "access-control-request-headers": "mcp-protocol-version"}
        assert (await http.options(path, headers=ours | asked)).status_code == 200
        assert (await http.get(path, headers={"origin": "https://evil.example"})).status_code == 403
        assert (await http.get(path, headers={"host": "evil.example"})).status_code == 421


@pytest.mark.parametrize(
    "resource",
    [
        "https://agents.example.com/mcp",
        "https://agents.example.com/mcp/",
        "https://agents.example.com/team/agents/mcp",
        "https://agents.example.com",
        "https://agents.example.com/",
    ],
)
async def test_a_client_finds_the_sign_in_however_it_writes_the_resource(resource: str, edge_home: Path) -> None:
    async with served_as(edge_home, resource) as http:
        refused = await http.post("/mcp", json=message("ping"))
        url = metadata_url(resource)
        assert f'resource_metadata="{url}"' in refused.headers["www-authenticate"]
        path = urlsplit(resource).path.rstrip("/")
        below = {urlsplit(url).path, WELL_KNOWN, f"{WELL_KNOWN}{path}", f"{WELL_KNOWN}/mcp", f"{WELL_KNOWN}/sse"}
        for each in below | {f"{one}/" for one in below}:
            found = await http.get(each)
            # What is in it is what the operator says, and nothing of what whoever asks says of the way to here.
            forged = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "http", "x-forwarded-prefix": "/evil"}
            assert (found.status_code, found.json()["resource"]) == (200, resource), each
            assert (await http.get(each, headers=forged)).json() == found.json()


@pytest.mark.parametrize("resource", ["https://agents.example.com/team/mcp", "https://agents.example.com"])
async def test_a_proxy_may_pass_the_path_of_the_resource_on_as_it_is(resource: str, edge_home: Path) -> None:
    async with served_as(edge_home, resource) as http:
        path = urlsplit(resource).path
        for each in {"/mcp", "/mcp/", path or "/", f"{path}/"}:
            assert (await http.post(each, json=message("ping"))).status_code == 401
            answer = await http.post(each, json=message("initialize", INITIALIZE), headers=OWN)
            assert answer.headers["mcp-session-id"], each
            modern = await http.post(each, json=message("ping"), headers=OWN | MODERN)
            assert "_meta" in fault(modern)  # which the era of 2026 asks for


async def test_a_target_in_absolute_form_is_served(edge_home: Path) -> None:
    async with served_as(edge_home, None) as http:
        host = http.base_url.netloc.decode()
        for target, status in (
            (f"http://{host}/mcp", 200),
            ("http://evil.example/mcp", 421),
            (f"http://{host}/x", 404),
        ):
            request = http.build_request("POST", "/mcp", json=message("ping"), headers=OWN)
            request.extensions = {**request.extensions, "target": target.encode()}
            assert (await http.send(request)).status_code == status, target
