"""Helpers for asyncio tasks."""

import asyncio
import logging
from collections.abc import Callable, Coroutine


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


_log = logging.getLogger(__name__)


class TaskSupervisor:
    """Background tasks in a task group; a failed task is logged and cancels no other."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> Callable[[], object]:
        """Start a task; the returned function cancels it."""
        # Referenced until it is done, so that `stop` can cancel it.
        task = self._group.create_task(_guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel

    def stop(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()


async def _guard(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except Exception:  # noqa: BLE001  # outermost handler of a task: an exception here would cancel the group
        _log.exception("background_failed")
