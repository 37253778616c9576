"""What becomes of a turn when its caller leaves: it depends on how."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from typing_extensions import override

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.core.conversations.models import EndReason, Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Exchange, Steps
from tests.support.peers.openai import OpenAIPeer
from tests.support.wires import Break
from tests.support.worlds import SLOW, World, asks, begun

LONG = timedelta(seconds=25)
DAY = 86_400
AGENTS = """
use_defaults = false
[agents.patient]
backend = "openai"
options = { base_url = "BASE", api_key = "none" }
[[agents.patient.models]]
name = "m"
model_id = "m"
provider = "p"
[agents.thrifty]
backend = "openai"
abandon_after_seconds = 0
options = { base_url = "BASE", api_key = "none" }
[[agents.thrifty.models]]
name = "m"
model_id = "m"
provider = "p"
"""


@asynccontextmanager
async def program(home: Path, folder: Path, peer: OpenAIPeer, *, grace: float) -> AsyncGenerator[Services]:
    """Open the program with an agent that has the default, and one that lets nothing run on."""
    config = folder / "agents.toml"
    config.write_text(AGENTS.replace("BASE", peer.openrouter_url), encoding="utf-8")
    settings = Settings(home=home, config=config, postgres_linger_seconds=20, abandon_grace_seconds=grace)
    async with open_app(settings, {}) as app:
        yield await app.services_provider.services()


async def left(server: Services, peer: OpenAIPeer, how: Departure | None, agent: str = "patient") -> Exchange:
    """Ask, leave while the agent works, and return what the provider received."""
    seen = len(peer.exchanges)
    asked = ChatRequest(message=f"{uuid4()} [[slow]] [[chunks2]]", agent=agent)
    asking = asyncio.ensure_future(server.turns.chat(server.principal, asked, wait=LONG))
    exchange = await peer.received(seen + 1)
    asking.cancel(how)
    await asyncio.wait({asking})
    return exchange


async def ended(server: Services, count: int) -> list[Turn]:
    """Wait until the newest turns have ended; the newest first."""
    newest = await server.turns.recent(server.principal, count)
    return [await server.turns.get(server.principal, str(turn.id), wait=LONG) for turn in newest]


@pytest.mark.parametrize("how", [Departure.TIMED_OUT, Departure.CLIENT_GONE])
async def test_a_turn_runs_on_when_its_caller_is_expected_back(how: Departure, edge_home: Path, tmp_path: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, program(edge_home, tmp_path, peer, grace=0) as server:
        await left(server, peer, how)
        # By the time that this one is stopped, the one before would have been.
        await (await left(server, peer, Departure.UNCLEAR)).gone.wait()
        steps.release(20)
        stopped, completed = await ended(server, 2)
        assert (stopped.status, stopped.end_reason) == (TurnStatus.CANCELLED, EndReason.ABANDONED)
        assert completed.status is TurnStatus.COMPLETED


@pytest.mark.parametrize("how", [Departure.TIMED_OUT, Departure.CLIENT_GONE])
async def test_an_agent_may_let_nothing_run_on(how: Departure, edge_home: Path, tmp_path: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer, program(edge_home, tmp_path, peer, grace=0) as server:
        await (await left(server, peer, how, agent="thrifty")).gone.wait()
        (turn,) = await ended(server, 1)
        assert turn.end_reason is EndReason.ABANDONED


async def test_without_running_on_there_is_still_the_grace(edge_home: Path, tmp_path: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, program(edge_home, tmp_path, peer, grace=DAY / 24) as server:
        await left(server, peer, Departure.TIMED_OUT, agent="thrifty")
        await left(server, peer, None)
        # Stop does not wait for the grace; by the time that it is over, the ones before would have been stopped.
        await (await left(server, peer, Departure.STOPPED)).gone.wait()
        steps.release(20)
        assert [turn.status for turn in await ended(server, 3)] == [
            TurnStatus.CANCELLED,
            TurnStatus.COMPLETED,
            TurnStatus.COMPLETED,
        ]


def test_stop_ends_a_turn_within_two_seconds_and_a_closed_stream_within_fifteen() -> None:
    options = TurnRunnerOptions()
    assert options.stopped_grace < timedelta(seconds=2)
    assert options.abandon_grace == timedelta(seconds=15)
    assert timedelta(seconds=Settings().abandon_grace_seconds) == options.abandon_grace


async def test_stop_waits_for_nothing_where_nobody_else_follows_the_turn(world: World) -> None:
    server = await world.program(stopped_grace=timedelta(seconds=DAY))
    async with begun(server, asks(SLOW)) as asking:
        exchange = await world.peer.received(path="/api/v1/chat/completions")
        asking.cancel(Departure.STOPPED)
        await exchange.gone.wait()
    (turn,) = await ended(server, 1)
    assert turn.end_reason is EndReason.ABANDONED


class Unhurried(SystemClock):
    """A clock on which nobody tries again before the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    @override
    async def sleep(self, duration: timedelta) -> None:
        await (self.go_on.wait() if duration == timedelta(milliseconds=200) else super().sleep(duration))


async def test_stop_counts_of_a_caller_who_joined_a_turn_whose_begin_was_lost(world: World) -> None:
    wire, url = await world.wire()
    clock = Unhurried()
    server = await world.program(url, clock=clock)
    request, before = asks(SLOW, idempotency_key=uuid4().hex), await world.turns()
    its = "id = (SELECT turn_id FROM agentapi.idempotency_keys WHERE key = $1)"
    wire.break_at("begin_turn_2", Break.AFTER)
    async with begun(server, request) as first:
        await world.until(its, request.idempotency_key)
        async with begun(server, request) as second:
            await world.until(f"{its} AND followed_at IS NOT NULL", request.idempotency_key)
            for caller, how in ((first, Departure.TIMED_OUT), (second, Departure.STOPPED)):
                caller.cancel(how)
                await asyncio.wait({caller})
            clock.go_on.set()
    await world.until(f"{its} AND status = 'cancelled'", request.idempotency_key)
    assert await world.turns() == before + 1
