"""A stream ends with what let its client in: its token's time, its owner's membership, its user's share."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from mcp.shared.exceptions import MCPError
from typing_extensions import override

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.edges.mcp.server.resources import CATALOGUE_URI
from agentapi_mcp.stores.postgres.catalogue import PostgresCatalogue
from agentapi_mcp.web.auth_rate_limit import MOST
from tests.support.tenants import Tenants, tenants

ACCEPTS = {"accept": "application/json, text/event-stream"}
LISTEN = {
    "jsonrpc": "2.0",
    "id": "listen-1",
    "method": "subscriptions/listen",
    "params": {
        "notifications": {"resourcesListChanged": True},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    },
}
# All that one user may watch, of 16 resources.
NOTHINGS = [f"agentapi://nothing/{number}" for number in range(14)]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "tests", "version": "1"},
    },
}


@dataclass
class LateClock(SystemClock):
    """The time of day, or some time after it."""

    late: timedelta = timedelta()

    @override
    def now(self) -> datetime:
        """Tell it."""
        return super().now() + self.late


async def opened(here: Tenants, http: httpx2.AsyncClient, link: str) -> httpx2.Request:
    """Say how a stream of this link is opened."""
    match link:
        case "sse":
            return http.build_request("GET", here.place.sse, headers=ACCEPTS)
        case "http-2025":
            begun = await http.post(here.place.mcp, json=INITIALIZE, headers=ACCEPTS)
            session = {"mcp-session-id": begun.headers["mcp-session-id"]}
            return http.build_request("GET", here.place.mcp, headers=ACCEPTS | session)
        case _:
            named = {"mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen"}
            return http.build_request("POST", here.place.mcp, json=LISTEN, headers=ACCEPTS | named)


@pytest.mark.parametrize("link", ["http-2025", "http-2026", "sse"])
@pytest.mark.parametrize("ends", ["token", "membership"])
async def test_a_stream_ends_with_what_let_its_client_in(link: str, ends: str, edge_home: Path, tmp_path: Path) -> None:
    clock = LateClock()
    async with tenants(edge_home, tmp_path, clock=clock) as here, here.http("bo") as http:
        stream = await http.send(await opened(here, http, link), stream=True)
        assert stream.status_code == 200
        lines = stream.aiter_lines()
        await anext(lines)
        if ends == "token":
            clock.late = timedelta(hours=2)
        else:
            async with here.database.as_system("test") as connection:
                await connection.execute(
                    "DELETE FROM public.organization_members WHERE user_id = $1", here.members["bo"].user_id
                )
        async for line in lines:  # to its polite end
            assert "error" not in line
        refused = await http.post(here.place.mcp, json=LISTEN, headers=ACCEPTS)
        assert refused.status_code == (401 if ends == "token" else 403)


@pytest.mark.parametrize("link", ["http-2025", "http-2026", "sse"])
async def test_every_stream_of_a_revoked_token_ends_whoever_guesses_beside_it(
    link: str, edge_home: Path, tmp_path: Path
) -> None:
    async with tenants(edge_home, tmp_path) as here, httpx2.AsyncClient(timeout=25) as guesser:
        tokens, bo = here.services.personal_tokens, here.members["bo"].principal
        made = await tokens.create(bo, f"t{uuid4().hex}", scopes=["read"])
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {made.secret}"}, timeout=25) as http:
            streams = [await http.send(await opened(here, http, link), stream=True) for _ in range(3)]
            lines = [stream.aiter_lines() for stream in streams]
            for each in lines:
                await anext(each)
            for number in range(MOST):
                guess = {"authorization": f"Bearer a.b.{number}"}
                refused = await guesser.post(here.place.mcp, json=LISTEN, headers=ACCEPTS | guess)
                assert refused.status_code == 401
            await tokens.revoke(bo, str(made.token.id))
            for each in lines:
                async for line in each:  # to its polite end
                    assert "error" not in line


async def test_a_stream_of_who_stays_stays_open(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.http("bo") as http, here.http("bea") as other:
        stream = await http.send(await opened(here, http, "http-2026"), stream=True)
        lines = stream.aiter_lines()
        await anext(lines)
        for _ in range(30):  # much longer than it takes to look again
            await other.post(here.place.mcp, json=INITIALIZE, headers=ACCEPTS)
        await PostgresCatalogue(here.database).notify_changed()
        async for line in lines:
            if "list_changed" in line:
                break
        else:
            pytest.fail("the stream has ended")
        await stream.aclose()


async def watch(here: Tenants, http: httpx2.AsyncClient, request: httpx2.Request) -> None:
    """Subscribe the client to the agents, in the session of a stream."""
    session = {"mcp-session-id": request.headers["mcp-session-id"]}
    params = {"uri": CATALOGUE_URI}
    asked = {"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": params}
    answer = await http.post(here.place.mcp, json=asked, headers=ACCEPTS | session)
    assert "result" in answer.text, answer.text


async def test_what_is_watched_after_a_stream_was_opened_counts_as_well(edge_home: Path, tmp_path: Path) -> None:
    async with (
        tenants(edge_home, tmp_path, capacities={Resource.SUBSCRIPTIONS: 16}) as here,
        here.http("bo") as http,
        here.client("bo", "http-2026") as client,
    ):
        stream = await http.send(request := await opened(here, http, "http-2025"), stream=True)
        lines = stream.aiter_lines()
        await anext(lines)
        await watch(here, http, request)
        await PostgresCatalogue(here.database).notify_changed()
        while "resources/updated" not in await anext(lines):
            pass
        with pytest.raises(MCPError, match="watched resources"):
            async with client.listen(resource_subscriptions=NOTHINGS):
                raise AssertionError
        async with client.listen(resource_subscriptions=NOTHINGS[1:]):
            pass
        await stream.aclose()


async def test_a_stream_that_watches_more_than_its_users_share_ends(edge_home: Path, tmp_path: Path) -> None:
    async with (
        tenants(edge_home, tmp_path, capacities={Resource.SUBSCRIPTIONS: 16}) as here,
        here.http("bo") as http,
        here.client("bo", "http-2026") as client,
        client.listen(resource_subscriptions=NOTHINGS),
    ):
        stream = await http.send(request := await opened(here, http, "http-2025"), stream=True)
        lines = stream.aiter_lines()
        await anext(lines)
        await watch(here, http, request)
        assert [line async for line in lines if "error" in line] == []
        again = await http.send(request, stream=True)
        assert again.status_code == 429
        assert "watched resources" in (await again.aread()).decode()
