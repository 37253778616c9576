"""How far a long piece of work is: a bar in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from agentapi_mcp.cli.terminal import is_redrawn, print_err, rewrite_row

_WIDTH = 24
_DETAIL = 30
_EVERY, _EVERY_LINE = 0.1, 10.0  # seconds


class Progress:
    """How far one piece of work is, on stderr; where `is_lines`, lines that are printed once and stay."""

    def __init__(self, what: str, *, is_lines: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._is_lines = is_lines
        self._now = now
        # A line is for what takes long; a bar is there from the first moment on.
        self._shown_at = now() if is_lines else float("-inf")
        self._is_shown = False

    def show(self, done: int, total: int, detail: str) -> None:
        """Show how much of all is done, not more often than one can read."""
        now = self._now()
        if now - self._shown_at < (_EVERY_LINE if self._is_lines else _EVERY):
            return
        self._shown_at = now
        share = min(done / total, 1.0) if total else 1.0
        if self._is_lines:
            print_err(f"{self._what}: {share:.0%} ({detail})")
            return
        self._is_shown = True
        bar = "#" * round(share * _WIDTH)
        rewrite_row(f"{share:4.0%} [{bar:<{_WIDTH}}] {self._what} {detail[:_DETAIL]}")

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_shown:
            rewrite_row("")
            self._is_shown = False


@contextmanager
def progress(what: str, *, is_lines: bool = False) -> Generator[Progress]:
    """Show how far the work is until it ends: in lines where a bar cannot be drawn, or none is wanted."""
    is_lines = is_lines or not is_redrawn()
    if is_lines:
        print_err(f"{what} …")
    bar = Progress(what, is_lines=is_lines)
    try:
        yield bar
    finally:
        bar.clear()
