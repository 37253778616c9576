"""A primary is killed under a load of turns, and a standby takes its place: no turn lost, none asked twice."""

import asyncio
from pathlib import Path

import pytest

from agentapi_mcp.testing.http import Steps
from tests.support.peers.openai import OpenAIPeer
from tests.support.standbys import Pair
from tests.support.turn_loads import answer_through, check_each_answered_once, replica


@pytest.mark.timeout(180)
async def test_no_turn_is_lost_and_none_is_asked_twice_when_a_standby_takes_over(pair: Pair, tmp_path: Path) -> None:
    async def fail_over() -> None:
        await asyncio.to_thread(pair.kill_primary)
        await asyncio.to_thread(pair.promote)

    steps = Steps()
    async with (
        OpenAIPeer(pace=steps) as peer,
        replica(pair.app, tmp_path, peer) as one,
        replica(pair.app, tmp_path, peer) as two,
    ):
        told = await answer_through([one, two], peer, steps, fail_over)
    await check_each_answered_once(told, peer, pair.standby.address("postgres", "agentapi"))
