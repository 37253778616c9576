"""One user's clients take nothing from everybody else: requests, streams, and rows of transport sessions."""

import json
from pathlib import Path

from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.stores.postgres.mcp_sessions import MOST_SESSIONS
from tests.security.test_streams import ACCEPTS, INITIALIZE, opened
from tests.support.tenants import tenants


async def test_one_user_leaves_open_requests_for_others(edge_home: Path, tmp_path: Path) -> None:
    async with (
        tenants(edge_home, tmp_path, capacities={Resource.OPEN_REQUESTS: 8}) as here,
        here.http("vic") as vic,
        here.http("bea") as bea,
    ):
        streams = [await vic.send(await opened(here, vic, "sse"), stream=True) for _ in range(8)]
        assert [stream.status_code for stream in streams] == [200] * 7 + [429]
        assert streams[-1].headers["retry-after"]
        assert (await bea.post(here.place.mcp, json=INITIALIZE, headers=ACCEPTS)).status_code == 200
        for stream in streams:
            await stream.aclose()


async def test_a_user_keeps_few_and_small_transport_sessions(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.http("vic") as vic:
        large = json.dumps(INITIALIZE).replace('"name": "tests"', f'"name": "{"x" * 3_000_000}"')
        last = ""
        for request in (large, *[json.dumps(INITIALIZE)] * (MOST_SESSIONS + 5), large):
            headers = ACCEPTS | {"content-type": "application/json"}
            last = (await vic.post(here.place.mcp, content=request, headers=headers)).headers["mcp-session-id"]
        async with here.database.as_system("test") as connection:
            row = await connection.fetchrow(
                "SELECT count(*) AS sessions, sum(length(mcp_state::text)) AS size FROM public.mcp_sessions "
                "WHERE user_id = $1 AND mcp_state ->> 'transport' = 'http'",
                here.members["vic"].user_id,
            )
        assert row is not None
        assert row["sessions"] == MOST_SESSIONS
        assert row["size"] < MOST_SESSIONS * 1000
        listed = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        session = {"mcp-session-id": last, "mcp-protocol-version": "2025-11-25"}
        assert (await vic.post(here.place.mcp, json=listed, headers=ACCEPTS | session)).status_code == 200
