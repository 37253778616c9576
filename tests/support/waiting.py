"""Waiting for what must happen soon: in other processes, which have no event to wait on, or here."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.025  # seconds


def wait_until(condition: Callable[[], T], seconds: float = 25.0, interval: float | None = None) -> T:
    """Wait until a condition holds, and return what it gave then; fail when it does not in time.

    It is looked every `interval` seconds; without one ever less often, since a look may cost as much as what it is for.
    """
    end = time.monotonic() + seconds
    pause = _FIRST_PAUSE if interval is None else interval
    while not (given := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        threading.Event().wait(pause)
        if interval is None:
            pause = min(pause * 1.25, _LONGEST_PAUSE)
    return given
