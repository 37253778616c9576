"""What the backend `droid` does of its own, beside the contract of all: processes, and what nobody can answer."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.events import BackendEvent, Finished
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.testing.hosts import FakeHost
from agentapi_mcp.testing.peers import BackendDeadlines
from agentapi_mcp.testing.waiting import expect_soon
from tests.support.peers.droid import DroidPeer, droid_peer


@dataclass(frozen=True)
class BackendSetup:
    """A backend beside its program."""

    backend: Backend
    peer: DroidPeer


@asynccontextmanager
async def open_setup(**options: object) -> AsyncGenerator[BackendSetup]:
    """Build the backend with these options."""
    async with FakeHost() as host, droid_peer() as peer:
        backend = registry.create("droid", {**peer.options(BackendDeadlines()), **options}, host)
        try:
            yield BackendSetup(backend, peer)
        finally:
            await backend.aclose()


async def finished(at: BackendSetup, word: str) -> Finished:
    events: list[BackendEvent] = [event async for event in at.backend.run(at.peer.turn(word))]
    assert isinstance(events[-1], Finished)
    return events[-1]


async def test_a_process_that_is_not_used_is_ended() -> None:
    async with open_setup(idle_seconds=0.05) as at:
        await finished(at, "answer")
        await expect_soon(at.peer.freed(), "the idle process ends")


async def test_a_process_is_kept_for_the_sessions_next_turn() -> None:
    async with open_setup() as at:
        await finished(at, "answer")
        assert not at.peer.was_freed.is_set()


async def test_the_process_used_longest_ago_makes_room() -> None:
    async with open_setup(max_processes=1) as at:
        await finished(at, "answer")
        await finished(at, "answer")  # of another session
        await expect_soon(at.peer.freed(), "the first process ends")


@pytest.mark.parametrize(
    ("way", "named"),
    [
        ("ask", "was refused: Execute."),
        ("forge", 'was refused: "x · session_id y".'),
        ("question", "was refused: a question to you."),
    ],
)
async def test_what_nobody_can_answer_is_refused_and_told(way: str, named: str) -> None:
    async with open_setup() as at:
        assert named in str((await finished(at, way)).warning)


async def test_a_request_that_we_do_not_know_is_refused() -> None:
    async with open_setup() as at:
        assert (await finished(at, "other")).warning is None


async def test_after_a_turn_that_was_not_completed_the_history_is_told_to_a_new_process() -> None:
    async with open_setup() as at:
        turn = at.peer.turn("e500")
        with pytest.raises(BackendError):
            _ = [event async for event in at.backend.run(turn)]
        await at.peer.freed()
        again = replace(at.peer.turn("answer"), session_id=turn.session_id)
        assert [event async for event in at.backend.run(again)]


async def test_a_busy_session_is_not_asked_twice_at_once() -> None:
    async with open_setup() as at:
        turn = at.peer.turn("waits")
        async with aclosing(at.backend.run(turn)) as events:
            await anext(events)
            with pytest.raises(BackendError) as caught:
                _ = [event async for event in at.backend.run(turn)]
        assert caught.value.fault is BackendFault.OVERLOADED
