"""For how long a process has had the store without a break."""

from datetime import timedelta

import pytest

from agentapi_mcp.core.conversations.store_watch import StoreWatch
from tests.support.clocks import ManualClock

GAP, LEASE = timedelta(seconds=10), timedelta(seconds=15)
STEP = timedelta(seconds=4)


def watched(clock: ManualClock, times: int) -> StoreWatch:
    """Watch a store that answers every four seconds."""
    watch = StoreWatch(clock, GAP)
    for _ in range(times):
        watch.seen(clock.now())
        clock.advance(STEP)
    return watch


def test_nobody_has_had_a_store_that_has_not_answered_yet() -> None:
    watch = StoreWatch(ManualClock(), GAP)
    assert not watch.had_for(timedelta(0))


def test_a_store_that_answers_without_a_break_was_there_since_its_first_answer() -> None:
    clock = ManualClock()
    watch = watched(clock, 4)
    assert clock.monotonic() == 16
    assert watch.had_for(timedelta(seconds=16))
    assert not watch.had_for(timedelta(seconds=16.1))


def test_a_failure_begins_the_time_anew_with_the_next_answer() -> None:
    clock = ManualClock()
    watch = watched(clock, 4)
    watch.failed()
    assert not watch.is_up
    assert not watch.had_for(timedelta(0))
    watch.seen(clock.now())
    assert watch.is_up
    assert not watch.had_for(LEASE)
    clock.advance(STEP)
    assert watch.had_for(STEP)


@pytest.mark.parametrize("pause", [GAP - STEP, GAP - STEP + timedelta(seconds=0.1)])
def test_a_pause_of_this_process_is_a_break_if_it_is_long(pause: timedelta) -> None:
    clock = ManualClock()
    watch = watched(clock, 4)
    clock.advance(pause)
    watch.seen(clock.now())
    assert watch.had_for(LEASE) == (pause + STEP <= GAP)


@pytest.mark.parametrize("jump", [GAP, timedelta(hours=1), -timedelta(hours=1), timedelta(seconds=1)])
def test_a_jump_of_the_stores_clock_is_a_break_if_it_is_long(jump: timedelta) -> None:
    clock = ManualClock()
    watch = watched(clock, 4)
    watch.seen(clock.now() + jump)
    assert watch.had_for(LEASE) == (abs(jump + STEP) <= GAP)
    assert watch.seen_at == clock.now() + jump


async def test_who_waits_is_woken_by_the_first_answer_and_by_a_failure() -> None:
    clock = ManualClock()
    watch = watched(clock, 1)
    await watch.until_up()
    watch.failed()
    await watch.until_down()
    watch.reached()
    assert watch.is_up
    await watch.until_up()
