"""Waiting for what other processes do: there is no event of theirs to wait on."""

import threading
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 8.0, interval: float = 0.005) -> None:
    """Wait until a condition holds, and fail when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        threading.Event().wait(interval)
