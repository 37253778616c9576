"""What the program logs while somebody types or reads an answer."""

import asyncio
import io
from collections import deque
from collections.abc import Callable
from typing import TextIO, cast

from typing_extensions import override

from agentapi_mcp.cli.terminal import print_err


class Notices:
    """Lines that wait until they overwrite nothing."""

    def __init__(self) -> None:
        self._waiting = deque[str]()

    def add(self, line: str) -> None:
        """Let a line wait."""
        self._waiting.append(line)

    def show(self) -> None:
        """Print what waits."""
        while self._waiting:
            print_err(self._waiting.popleft())


def notice_stream(notice: Callable[[str], None]) -> TextIO:
    """Make a stream for logs, which come from any thread: `notice` gets each on the event loop."""
    return cast("TextIO", _NoticeStream(notice))


class _NoticeStream(io.TextIOBase):
    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._loop = asyncio.get_running_loop()

    @override
    def write(self, text: str, /) -> int:
        self._loop.call_soon_threadsafe(self._notice, text.rstrip("\n"))
        return len(text)
