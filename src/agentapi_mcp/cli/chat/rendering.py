"""Shows an answer in a terminal, its Markdown rendered."""

import asyncio
import time

from rich.console import Console
from typing_extensions import override

from agentapi_mcp.cli.chat.markdown_stream import MarkdownStream
from agentapi_mcp.cli.chat.screens import Answer
from agentapi_mcp.cli.terminal import terminal_stream, write_rendered

_REFRESH_SECONDS = 0.08
_SHARE = 4  # times as long as a refresh took, there is none


class MarkdownAnswer(Answer):
    """An answer whose Markdown is rendered while it comes."""

    def __init__(self, console: Console) -> None:
        self._stream = console.file
        self._markdown = MarkdownStream(write_rendered, console)
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _REFRESH_SECONDS

    @override
    def add(self, text: str) -> None:
        self._markdown.feed(text)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._refresh)

    @override
    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._markdown.finish()
        self._stream.flush()

    def _refresh(self) -> None:
        self._timer = None
        begin = time.monotonic()
        self._markdown.refresh()
        self._stream.flush()
        # What is slow to render, as thousands of brackets are, must not take all the time that keys need.
        self._pause = max(_REFRESH_SECONDS, _SHARE * (time.monotonic() - begin))


def markdown_answer() -> MarkdownAnswer:
    """Return an answer that is shown on stdout, which is a terminal."""
    return MarkdownAnswer(Console(file=terminal_stream(), force_terminal=True))
