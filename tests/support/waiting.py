"""Waiting for what must happen soon: in other processes, which have no event to wait on, or here."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float = 25.0, interval: float = 0.005) -> T:
    """Wait until a condition holds, and return what it gave then; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not (given := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        threading.Event().wait(interval)
    return given


async def expect_soon(happens: Awaitable[object], what: str, seconds: float = 20.0) -> None:
    """Wait for what must happen; fail when it does not in time."""
    try:
        async with asyncio.timeout(seconds):
            await happens
    except TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")
