"""What a turn costs in statements, tasks and timers: exact, and so the same on every machine."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import asyncpg
import pytest
from mcp import Client
from pydantic import SecretStr

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from tests.support.connect import fields_of
from tests.support.counting import CountingLoop, elsewhere
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until

P = ParamSpec("P")
R = TypeVar("R")
pytestmark = pytest.mark.timeout(60)
TURNS = 10
# What is gathered is shared by all turns of a moment: there, signals and deliveries have a statement each.
GATHERED = ("tasks gathered", "statements gathered")
PRICE = {
    "tasks": 5,
    "timers": 8,
    "statements": 2,  # its begin, and its end
    "tasks gathered": 1,
    "statements gathered": 2,
}
METHODS = ("fetch", "fetchrow", "fetchval", "execute")


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> CountingLoop:
    """Return a loop that counts what is sent to Postgres as well."""
    loop = CountingLoop()
    for name in METHODS:
        monkeypatch.setattr(asyncpg.Connection, name, counted(getattr(asyncpg.Connection, name), loop))
    return loop


def counted(method: Callable[P, R], loop: CountingLoop) -> Callable[P, R]:
    """Count the calls of a method."""

    def count(*args: P.args, **more: P.kwargs) -> R:
        loop.count("statements")
        return method(*args, **more)

    return count


async def test_a_turn_asks_no_more_of_loop_and_database(edge_home: Path, valkey: Valkey, loop: CountingLoop) -> None:
    async with OpenAIPeer() as peer:
        settings = Settings(home=edge_home, redis_url=SecretStr(valkey.url), postgres_linger_seconds=20)
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
        async with elsewhere(loop, lambda: served(settings, environ)) as url, Client(url, cache=None) as client:
            session: dict[str, object] = {}
            costs = list[Counter[str]]()
            for number in range(TURNS):
                loop.call_soon_threadsafe(loop.settle)
                said = {"agent": "droid", "message": f"hello {number}", **session}
                session = {"session_id": fields_of(await client.call_tool("chat", said))["session_id"]}
                await asyncio.to_thread(wait_until, lambda: all(loop.counts[what] >= PRICE[what] for what in GATHERED))
                costs.append(Counter(loop.counts))
    # Of the turns of a session that goes on, the cheapest: what the process does now and then, and what it does in
    # place of waiting on a slow machine, comes on top of others.
    assert {what: min(cost[what] for cost in costs[1:]) for what in PRICE} == PRICE


@asynccontextmanager
async def served(settings: Settings, environ: Mapping[str, str]) -> AsyncGenerator[str]:
    """Serve the whole program, and give its address."""
    async with open_app(settings, environ) as app:
        await app.services_provider.services()
        application = mcp_application(create_server(app.services_provider, McpOptions()))
        async with serve_app(application) as at:
            yield at.mcp
