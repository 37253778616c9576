"""What a program asks of its event loop and its database, counted: exact, unlike the time that it takes."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from typing_extensions import override

T = TypeVar("T")


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts tasks and timers: those of `lasting` tasks, which serve all requests, apart."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.lasting = set[asyncio.Task[Any]]()
        super().__init__()

    def count(self, what: str) -> None:
        """Count what is done now."""
        try:
            task = asyncio.current_task(self)
        except RuntimeError:  # it does not run yet
            return
        self.counts[f"{what} gathered" if task in self.lasting else what] += 1

    @override
    def create_task(self, coro: Any, **more: Any) -> asyncio.Task[Any]:
        self.count("tasks")
        return super().create_task(coro, **more)

    @override
    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **more: Any) -> asyncio.TimerHandle:
        self.count("timers")
        return super().call_at(when, callback, *args, **more)

    def settle(self) -> None:
        """Take all tasks that there are for lasting ones, and begin to count."""
        self.lasting = asyncio.all_tasks(self)
        self.counts.clear()


@asynccontextmanager
async def elsewhere(loop: CountingLoop, opened: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncGenerator[T]:
    """Open something in a thread, on a loop of its own, so that the loop of the test is not counted."""
    here, is_over = asyncio.get_running_loop(), asyncio.Event()
    ready: asyncio.Future[T] = here.create_future()

    async def work() -> None:
        try:
            async with opened() as it:
                here.call_soon_threadsafe(ready.set_result, it)
                await is_over.wait()
        except BaseException as exc:
            if not ready.done():
                here.call_soon_threadsafe(ready.set_exception, exc)
            raise

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(work())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield await ready
    finally:
        loop.call_soon_threadsafe(is_over.set)
        await asyncio.to_thread(thread.join)
