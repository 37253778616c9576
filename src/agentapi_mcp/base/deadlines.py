"""Deadlines that are almost never reached: one timer of the event loop for all steps of a piece of work."""

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Deadline:
    """The deadline of the step that is being done, of work that does one at a time.

    Each step moves the deadline away, and the timer is armed anew only when it has come due before that: a stream of
    many pieces needs no timer for each.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._armed_for = math.inf
        self._handle: asyncio.TimerHandle | None = None
        self._step: asyncio.Timeout | None = None

    def close(self) -> None:
        """Give the timer back."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._armed_for = None, math.inf

    async def until(self, due: float, step: Awaitable[T]) -> T:
        """Await a step until this time of the loop.

        Raises:
            TimeoutError: it took longer.
        """
        self._due = due
        try:
            async with asyncio.timeout(None) as self._step:
                if due < self._armed_for:
                    self._arm()
                return await step
        finally:
            self._step = None

    def _arm(self) -> None:
        self.close()
        self._handle, self._armed_for = self._loop.call_at(self._due, self._look), self._due

    def _look(self) -> None:
        is_due = self._due <= self._armed_for
        self.close()
        if self._step is None:
            return  # the next step arms it
        if is_due:
            self._step.reschedule(self._loop.time())
        else:
            self._arm()
