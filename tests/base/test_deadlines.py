"""The deadline of work that is done step by step, on a loop whose time the test moves."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from typing_extensions import override

from agentapi_mcp.base.concurrency import yield_to_others
from agentapi_mcp.base.deadlines import Deadline, done_within


class TimedLoop(asyncio.SelectorEventLoop):
    """A loop that counts its timers, and on which time passes when the test says so."""

    seconds = 1_000.0

    def __init__(self) -> None:
        self.timers = list[asyncio.TimerHandle]()
        super().__init__()

    @override
    def time(self) -> float:
        return self.seconds

    @override
    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, **more: object
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, **more)  # pyright: ignore[reportArgumentType]  # as it was called
        self.timers.append(timer)
        return timer

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everybody see that."""
        self.seconds += seconds
        for _ in range(5):
            await yield_to_others()


def run(work: Callable[[TimedLoop, Deadline], Awaitable[None]]) -> TimedLoop:
    """Do the work on a loop of its own."""
    loop, wrong = TimedLoop(), list[object]()
    loop.set_exception_handler(lambda _, what: wrong.append(what))

    async def main() -> None:
        deadline = Deadline()
        await work(loop, deadline)
        deadline.close()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    assert wrong == []
    return loop


async def pending() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


def test_a_step_ends_at_its_deadline_and_not_before() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        async with asyncio.TaskGroup() as group:
            step = group.create_task(until(deadline, loop.time() + 10))
            await loop.advance(9)
            assert not step.done()
            await loop.advance(1)
            assert step.done()

    run(work)


async def until(deadline: Deadline, due: float) -> None:
    """Wait for the deadline."""
    with pytest.raises(TimeoutError):
        await deadline.until(due, pending())


def test_a_later_step_has_its_own_deadline() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        await deadline.until(loop.time() + 10, yield_to_others())
        await loop.advance(8)
        async with asyncio.TaskGroup() as group:
            step = group.create_task(until(deadline, loop.time() + 10))
            await loop.advance(9)  # beyond the first deadline
            assert not step.done()
            await loop.advance(1)
            assert step.done()

    run(work)


def test_a_step_may_have_an_earlier_deadline_than_the_one_before() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        await deadline.until(loop.time() + 10, yield_to_others())
        async with asyncio.TaskGroup() as group:
            step = group.create_task(until(deadline, loop.time() + 1))
            await loop.advance(1)
            assert step.done()

    run(work)


def test_a_deadline_that_passes_between_two_steps_ends_neither() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        assert await deadline.until(loop.time() + 10, done()) == "done"
        await loop.advance(20)
        assert await deadline.until(loop.time() + 10, done()) == "done"

    run(work)


async def done() -> str:
    """Do what takes a moment."""
    await yield_to_others()
    return "done"


def test_one_that_is_over_ends_a_step_at_once() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        async with asyncio.TaskGroup() as group:
            step = group.create_task(until(deadline, loop.time() - 1))
            await loop.advance(0)
            assert step.done()

    run(work)


def test_many_steps_need_one_timer() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        for _ in range(100):
            await deadline.until(loop.time() + 10, yield_to_others())
            await loop.advance(0.01)

    (timer,) = run(work).timers
    assert timer.cancelled()  # it is given back


def test_whoever_is_cancelled_is_not_late() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        async with asyncio.TaskGroup() as group:
            step = group.create_task(deadline.until(loop.time() + 10, pending()))
            await loop.advance(1)
            step.cancel()
        assert step.cancelled()

    run(work)


def test_a_step_that_waits_for_nothing_needs_no_timer() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        assert await deadline.until(loop.time() + 10, at_once()) == 5
        assert not deadline.has_waited
        assert await done_within(10, at_once()) == 5
        await deadline.until(loop.time() + 10, yield_to_others())
        assert deadline.has_waited

    assert len(run(work).timers) == 1


async def at_once() -> int:
    """Wait for nothing."""
    return 5


def test_the_timer_of_a_step_does_for_a_later_one_that_was_foreseen() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        started = loop.time()
        await deadline.until(started + 12, yield_to_others(), then=started + 10)
        async with asyncio.TaskGroup() as group:
            step = group.create_task(until(deadline, started + 9.995))
            await loop.advance(9)
            assert not step.done()
            await loop.advance(1)
            assert step.done()

    assert len(run(work).timers) == 1


def test_a_timer_for_a_later_step_does_not_end_the_one_before() -> None:
    async def work(loop: TimedLoop, deadline: Deadline) -> None:
        started = loop.time()

        async def step() -> None:
            with pytest.raises(TimeoutError):
                await deadline.until(started + 12, pending(), then=started + 10)

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(step())
            await loop.advance(11)
            assert not waiting.done()
            await loop.advance(1)
            assert waiting.done()

    run(work)


def test_work_that_waits_ends_in_time() -> None:
    async def work(loop: TimedLoop, _: Deadline) -> None:
        cancelled = False

        async def wait() -> None:
            nonlocal cancelled
            try:
                await pending()
            except asyncio.CancelledError:
                cancelled = True
                raise

        async def within() -> None:
            with pytest.raises(TimeoutError):
                await done_within(10, wait())

        async with asyncio.TaskGroup() as group:
            step = group.create_task(within())
            await yield_to_others()
            await loop.advance(9)
            assert not step.done()
            await loop.advance(1)
            assert step.done()
        assert cancelled

    run(work)


def test_work_that_waits_returns_and_raises_as_if_it_were_awaited() -> None:
    async def work(loop: TimedLoop, _: Deadline) -> None:
        async def wait(then: Exception | None) -> int:
            await yield_to_others()
            try:
                await asyncio.wait_for(asyncio.shield(loop.create_future()), 0)
            except TimeoutError:
                await yield_to_others()
            if then is not None:
                raise then
            return 5

        assert await done_within(10, wait(None)) == 5
        with pytest.raises(ValueError, match="so"):
            await done_within(10, wait(ValueError("so")))
        task = asyncio.create_task(done_within(10, pending()))  # noqa: TID251  # to be cancelled
        await yield_to_others()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work)
