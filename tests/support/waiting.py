"""Waiting for what must happen soon: in other processes, which have no event to wait on, or here."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float = 25.0, interval: float = 0.005) -> T:
    """Wait until a condition holds, and return what it gave then; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not (given := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        threading.Event().wait(interval)
    return given
