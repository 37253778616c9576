"""Deadlines that are almost never reached: no timer for what is done at once, and one for all steps of other work."""

import asyncio
import math
from collections.abc import Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any, TypeVar, cast

T = TypeVar("T")


async def done_within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Do work that nearly always has nothing to wait for: only if it waits, there is a timer.

    Raises:
        TimeoutError: it took longer.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    async with asyncio.timeout(seconds):
        return await _go_on(work, waits_for)


class Deadline:
    """The deadline of the step that is being done, of work that does one at a time.

    Each step moves the deadline away, and the timer is armed anew only when it has come due before that: a stream of
    many pieces needs no timer for each. A step that waits for nothing needs none at all. `has_waited` tells whether the
    last step did wait.
    """

    def __init__(self) -> None:
        self.has_waited = False
        self._loop = asyncio.get_running_loop()
        self._due = self._armed_for = math.inf
        self._handle: asyncio.TimerHandle | None = None
        self._step: asyncio.Timeout | None = None

    def close(self) -> None:
        """Give the timer back."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._armed_for = None, math.inf

    async def until(self, due: float, step: Coroutine[Any, Any, T], *, then: float = math.inf) -> T:
        """Await a step until this time of the loop; `then` is when a later step may be due, if that is sooner.

        Raises:
            TimeoutError: it took longer.
        """
        try:
            waits_for = step.send(None)
        except StopIteration as done:
            self.has_waited = False
            return cast("T", done.value)
        self.has_waited = True
        self._due = due
        try:
            async with asyncio.timeout(None) as self._step:
                if min(due, then) < self._armed_for - _NEAR:
                    self._arm(min(due, then))
                return await _go_on(step, waits_for)
        finally:
            self._step = None

    def _arm(self, at: float) -> None:
        self.close()
        self._handle, self._armed_for = self._loop.call_at(at, self._look), at

    def _look(self) -> None:
        is_due = self._due <= self._armed_for
        self.close()
        if self._step is None:
            return  # the next step arms it
        if is_due:
            self._step.reschedule(self._loop.time())
        else:
            self._arm(self._due)


# Seconds: a deadline that is so much sooner than the timer that is armed is kept by that.
_NEAR = 0.01


@coroutine
def _go_on(work: Coroutine[Any, Any, T], waits_for: object) -> Generator[object, object, T]:
    """Await work that was begun, and now waits for something."""
    while True:
        try:
            got = yield waits_for
        except BaseException as exc:  # noqa: BLE001  # whatever it is, the work must see it
            go_on = partial(work.throw, exc)
        else:
            go_on = partial(work.send, got)
        try:
            waits_for = go_on()
        except StopIteration as done:
            return cast("T", done.value)
