"""Helpers for asyncio tasks."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from weakref import WeakKeyDictionary


async def first_of(*works: Coroutine[None, None, object]) -> None:
    """Wait until the first coroutine is done, and cancel the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


async def yield_to_others() -> None:
    """Let every other task that is ready run once, in the middle of work that waits for nothing."""
    await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop, and no wait


async def yield_in_line() -> None:
    """Let every other task run, and all other work that waits here go on before: for work of many pieces.

    In each turn of the event loop one goes on. Else each of them would do a piece in every turn, and whatever others do
    would take as many times as long.
    """
    line = _LINES.setdefault(asyncio.get_running_loop(), _Line())
    await line.take_turn()


class _Line:
    """Work that waits to go on."""

    def __init__(self) -> None:
        self._waiting = deque[asyncio.Future[None]]()
        self._is_counting = False

    async def take_turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._count()
        await turn

    def _count(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_counting = False
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # it was not cancelled
                turn.set_result(None)
                break
        if self._waiting:
            self._count()


_LINES: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()
_log = logging.getLogger(__name__)


class TaskSupervisor:
    """Background tasks in a task group; a failed task is logged and cancels no other."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> Callable[[], object]:
        """Start a task; the returned function cancels it."""
        # Referenced until it is done, so that `stop` can cancel it.
        task = self._group.create_task(guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel

    def stop(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()


async def guarded(work: Coroutine[None, None, None]) -> None:
    """Do the work of a background task, or one round of it; whatever fails is logged, and leaves the task alone."""
    try:
        await work
    except Exception:  # noqa: BLE001  # outermost handler of a task: an exception here would cancel the group
        _log.exception("background_failed")
