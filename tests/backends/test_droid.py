"""What the backend `droid` does of its own, beside the contract of all: processes, and what nobody can answer."""

from contextlib import aclosing
from dataclasses import replace

import pytest

from agentapi_mcp.core.errors import BackendError, BackendFault
from agentapi_mcp.core.events import BackendEvent, Finished
from tests.support.hosts import FakeHost
from tests.support.peers.cases import Behaviour, backend_turn
from tests.support.peers.droid import DroidRig, droid_rig
from tests.support.waiting import expect_soon


async def finished(rig: DroidRig, model: str) -> Finished:
    events: list[BackendEvent] = [event async for event in rig.backend.run(backend_turn(model_id=f"custom:{model}"))]
    assert isinstance(events[-1], Finished)
    return events[-1]


async def test_a_process_that_is_not_used_is_ended() -> None:
    async with FakeHost() as host, droid_rig(host, idle_seconds=0.05) as rig:
        await finished(rig, "answer")
        await expect_soon(rig.freed(), "the idle process ends")


async def test_a_process_is_kept_for_the_sessions_next_turn() -> None:
    async with FakeHost() as host, droid_rig(host) as rig:
        await finished(rig, "answer")
        assert not rig.was_freed.is_set()


async def test_the_process_used_longest_ago_makes_room() -> None:
    async with FakeHost() as host, droid_rig(host, max_processes=1) as rig:
        await finished(rig, "answer")
        await finished(rig, "answer")  # of another session
        await expect_soon(rig.freed(), "the older process ends")


@pytest.mark.parametrize(
    ("way", "named"), [("ask", "was refused: Execute."), ("question", "was refused: a question to you.")]
)
async def test_what_nobody_can_answer_is_refused_and_told(way: str, named: str) -> None:
    async with FakeHost() as host, droid_rig(host) as rig:
        assert named in str((await finished(rig, way)).warning)


async def test_a_request_that_we_do_not_know_is_refused() -> None:
    async with FakeHost() as host, droid_rig(host) as rig:
        assert (await finished(rig, "other")).warning is None


async def test_after_a_turn_that_was_not_completed_the_history_is_told_to_a_new_process() -> None:
    async with FakeHost() as host, droid_rig(host) as rig:
        turn = rig.turn(Behaviour.BROKEN)
        with pytest.raises(BackendError):
            _ = [event async for event in rig.backend.run(turn)]
        await rig.freed()
        again = replace(rig.turn(Behaviour.ANSWERS), session_id=turn.session_id)
        assert [event async for event in rig.backend.run(again)]


async def test_a_busy_session_is_not_asked_twice_at_once() -> None:
    async with FakeHost() as host, droid_rig(host) as rig:
        turn = rig.turn(Behaviour.WAITS)
        async with aclosing(rig.backend.run(turn)) as events:
            await anext(events)
            with pytest.raises(BackendError) as caught:
                _ = [event async for event in rig.backend.run(turn)]
        assert caught.value.fault is BackendFault.OVERLOADED
