"""Shows an answer in a terminal, its Markdown rendered."""

import asyncio
import time
from collections import deque

from rich.console import Console
from typing_extensions import override

from agentapi_mcp.cli.chat.markdown_stream import MarkdownStream
from agentapi_mcp.cli.chat.screens import Answer
from agentapi_mcp.cli.terminal import terminal_stream, visible, write_rendered

_REFRESH_SECONDS = 0.08
_SHARE = 4  # times as long as a refresh took, there is none
# Characters that are rendered without a look at the keys: of an answer that goes on, and of one that has ended.
_AT_ONCE, _AT_THE_END = 20_000, 200_000


class MarkdownAnswer(Answer):
    """An answer whose Markdown is rendered while it comes."""

    def __init__(self, console: Console) -> None:
        self._stream = console.file
        self._markdown = MarkdownStream(write_rendered, console)
        self._waiting = deque[str]()  # in pieces that are not longer than what is rendered at once
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _REFRESH_SECONDS

    @override
    def add(self, text: str) -> None:
        self._waiting += (text[begin : begin + _AT_ONCE] for begin in range(0, len(text), _AT_ONCE))
        self._refresh_later()

    @override
    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._feed(_AT_THE_END)
        self._markdown.finish()
        if self._waiting:  # as it was written, since nobody waits for minutes
            write_rendered(f"{visible(''.join(self._waiting))}\n")
            self._waiting.clear()
        self._stream.flush()

    def _feed(self, most: int) -> None:
        """Hand on what waits, up to so many characters and at least a piece."""
        size = 0
        while self._waiting and (size == 0 or size + len(self._waiting[0]) <= most):
            size += len(self._waiting[0])
            self._markdown.feed(self._waiting.popleft())

    def _refresh_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._refresh)

    def _refresh(self) -> None:
        self._timer = None
        begin = time.monotonic()
        self._feed(_AT_ONCE)
        self._markdown.refresh()
        self._stream.flush()
        # What is slow to render must not take all the time that keys need.
        self._pause = max(_REFRESH_SECONDS, _SHARE * (time.monotonic() - begin))
        if self._waiting:
            self._refresh_later()


def markdown_answer() -> MarkdownAnswer:
    """Return an answer that is shown on stdout, which is a terminal."""
    return MarkdownAnswer(Console(file=terminal_stream(), force_terminal=True))
