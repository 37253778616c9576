"""How far a long piece of work is: a bar in a terminal, a line at the end elsewhere."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from agentapi_mcp.cli.terminal import is_redrawn, print_err, terminal_width, visible

_WIDTH = 24
_EVERY = 0.1
_CLEAR_LINE = "\r\x1b[K"


class Progress:
    """The bar of one piece of work, on stderr."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown_at = 0.0
        self._is_shown = False

    def show(self, done: int, total: int, detail: str) -> None:
        """Show how much of all is done, not more often than one can read."""
        now = time.monotonic()
        if not is_redrawn() or now - self._shown_at < _EVERY:
            return
        self._shown_at, self._is_shown = now, True
        share = done / total if total else 1.0
        bar = "#" * round(share * _WIDTH)
        line = f"{share:4.0%} [{bar:<{_WIDTH}}] {self._what} {visible(detail)[:30]}"
        self._write(f"{_CLEAR_LINE}{line[: terminal_width() - 1]}")  # a second row would stay

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_shown:
            self._write(_CLEAR_LINE)
            self._is_shown = False

    def _write(self, text: str) -> None:
        stream = getattr(sys.stderr, "stream", sys.stderr)  # past what cleans, which would take the cursor's moves out
        stream.write(text)
        stream.flush()


@contextmanager
def progress(what: str) -> Generator[Progress]:
    """Show a bar until the work ends; where it cannot be drawn, say what is done."""
    if not is_redrawn():
        print_err(f"{what} …")
    bar = Progress(what)
    try:
        yield bar
    finally:
        bar.clear()
