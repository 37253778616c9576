"""The harness's time: the clock that Postgres stamps its rows with, and the waits that faults are made of."""

import asyncio
import time
from collections.abc import Awaitable, Callable


def now() -> float:
    """Return the seconds since the epoch."""
    return time.time()


async def pause(seconds: float) -> None:
    """Let the time of a fault pass."""
    await asyncio.sleep(max(0.0, seconds))  # noqa: TID251  # a fault lasts as long as its scenario says


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, interval: float = 0.1) -> bool:
    """Ask again and again until a condition holds, and tell whether it did in time."""
    end = now() + seconds
    while not await condition():
        if now() > end:
            return False
        await pause(interval)
    return True
