"""Where a conversation is shown and typed: what it asks of a terminal, and a terminal that only prints lines."""

import asyncio
import os
import signal
import sys
import termios
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from typing_extensions import override

from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.cli.chat.clients import ChatClient, Following
from agentapi_mcp.cli.chat.notices import Notices
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.replies import ChatReply
from agentapi_mcp.cli.terminal import print_err, print_out, print_prompt

_READ_BYTES = 65_536
_MOST_OF_A_LINE = 4095  # bytes that a terminal passes on of a line; the rest of it is lost
_MANY = '"""'
_CTRL_C, _CTRL_Z = b"\x03", b"\x1a"
_ENDS = b"\n" + _CTRL_C + _CTRL_Z
_PATIENCE = 0.7  # seconds in which what was stopped may end, before the program is left without it
_LFLAG, _CC = 3, 6  # places in the attributes of a terminal


class CtrlC(Exception):  # noqa: N818  # a key and no error
    """Ctrl-C was pressed at the prompt; `typed` says whether it threw anything away."""

    def __init__(self, *, typed: bool) -> None:
        super().__init__()
        self.typed = typed


class Interruption:
    """Ctrl-C while something goes on: the first one stops it, the second one leaves, even if it does not stop."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self.stopped = asyncio.Event()
        self._leave = leave
        self._leaving: asyncio.TimerHandle | None = None

    def press(self) -> bool:
        """Take a Ctrl-C; return whether it is not the first one."""
        again = self.stopped.is_set()
        self.stopped.set()
        if again and self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_later(_PATIENCE, self._leave)
        return again

    def end(self) -> None:
        """Forget it: what went on has ended."""
        if self._leaving is not None:
            self._leaving.cancel()


class Answer(Protocol):
    """An answer while it comes."""

    def add(self, text: str) -> None:
        """Show a piece of it."""
        ...

    def end(self) -> None:
        """End it."""
        ...


class Screen(Protocol):
    """A terminal, as a conversation needs it."""

    @property
    def hint(self) -> str:
        """How to enter a message of many lines."""
        ...

    @property
    def edits(self) -> bool:
        """Whether a text can be put into the prompt, to be changed there."""
        ...

    def opened(self) -> AbstractContextManager[None]:
        """Take the terminal for the time of a conversation."""
        ...

    def released(self) -> AbstractContextManager[None]:
        """Lend the terminal to another program."""
        ...

    def restore(self) -> None:
        """Give the terminal back as it was before it was opened, in the middle of anything."""
        ...

    def following(self, interruption: Interruption) -> AbstractContextManager[None]:
        """Pass Ctrl-C on; what else is typed meanwhile waits for the prompt."""
        ...

    async def read(self, name: str, text: str = "") -> str | None:
        """Read a message at a prompt with this name, and this text to begin with; None at the end of input.

        Raises:
            CtrlC: it was pressed, or the signal came.
        """
        ...

    def notice(self, line: str) -> None:
        """Print a line of the log where it overwrites nothing: above the prompt, or before the next one."""
        ...

    def interrupt(self) -> None:
        """Do as if Ctrl-C were pressed."""
        ...

    def answer(self) -> Answer:
        """Begin to show an answer."""
        ...


class PlainAnswer(Answer):
    """An answer that is printed as it comes."""

    def __init__(self) -> None:
        self._open = False

    @override
    def add(self, text: str) -> None:
        print_out(text, end="")
        self._open = not text.endswith("\n")

    @override
    def end(self) -> None:
        if self._open:
            print_out("")
        self._open = False


async def followed(
    client: ChatClient, options: ChatOptions, message: str, following: Following, answer: Answer
) -> ChatReply:
    """Send a message, and show the answer: while it comes, or at its end if it comes as a whole."""
    streamed = False

    def show(text: str) -> None:
        nonlocal streamed
        streamed = True
        answer.add(text)

    following.on_text = show
    try:
        reply = await client.send(options, message, following)
        if not streamed and reply.text:
            answer.add(reply.text)
    finally:
        answer.end()
    return reply


class LineScreen(Screen):
    """A terminal that reads and prints lines, and is never asked to move its cursor: a dumb one, or a reader's."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._unread = b""
        self._notices = Notices()
        self._interrupted = asyncio.Event()
        self._following: Interruption | None = None
        self._before = termios.tcgetattr(self._fd)
        self._is_at_end = False  # Ctrl-D was pressed while an answer came
        self._is_refused = False  # a line that cannot be a part of a message

    @property
    @override
    def hint(self) -> str:
        return f"A line of {_MANY} begins a message of many lines, and another ends it."

    @property
    @override
    def edits(self) -> bool:
        return False

    @override
    @contextmanager
    def opened(self) -> Generator[None]:
        # Under `make` the signal of Ctrl-C would end make as well; so it is read as the end of a line.
        with self._attributes(_reads_keys):
            yield
        self._notices.show()

    @override
    def restore(self) -> None:
        termios.tcsetattr(self._fd, termios.TCSANOW, self._before)

    @override
    @contextmanager
    def released(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        was_reading = loop.remove_reader(self._fd)  # else both read, and each gets some of the keys
        try:
            with self._attributes(_is_usual):
                yield
        finally:
            if was_reading:
                loop.add_reader(self._fd, self._read_ahead)

    @override
    @contextmanager
    def following(self, interruption: Interruption) -> Generator[None]:
        loop = asyncio.get_running_loop()
        self._following = interruption
        with self._attributes(_is_silent):
            loop.add_reader(self._fd, self._read_ahead)
            try:
                yield
            finally:
                loop.remove_reader(self._fd)
                self._following = None
                interruption.end()

    @override
    async def read(self, name: str, text: str = "") -> str | None:
        self._notices.show()
        line = await self._read_line(f"{name} > ")
        if line != _MANY:
            return line
        return await self._read_many() or await self.read(name)

    async def _read_many(self) -> str | None:
        """Read the lines up to the one that ends them; None where they are not the whole message."""
        lines, self._is_refused = list[str](), False
        while (line := await self._read_line("")) != _MANY:
            if line is None:  # Ctrl-D
                print_err("Nothing was sent.")
                return None
            lines.append(line)
        if self._is_refused:
            print_err("Nothing was sent, since a line of the message was refused.")
            return None
        return "\n".join(lines)

    @override
    def notice(self, line: str) -> None:
        self._notices.add(line)  # which waits, since what is typed could not be shown again below it

    @override
    def interrupt(self) -> None:
        if self._following is None:
            self._interrupted.set()
        elif self._following.press():
            self._unread += _CTRL_C  # which leaves, as soon as the answer is stopped

    @override
    def answer(self) -> Answer:
        return PlainAnswer()

    async def _read_line(self, prompt: str) -> str | None:
        while True:
            print_prompt(prompt)
            if (end := self._end_of_line()) is not None:
                print_prompt(
                    self._unread[: end + 1].decode(errors="replace")
                )  # which was typed while nothing was echoed
            while end is None:
                if not await self._read_more():
                    return None
                end = self._end_of_line()
            line, key, self._unread = self._unread[:end], self._unread[end : end + 1], self._unread[end + 1 :]
            if key == _CTRL_C:
                print_err("")
                raise CtrlC(typed=bool(line))
            if key == _CTRL_Z:
                self._suspend()
            elif (text := _text(line)) is not None:
                return text
            else:
                self._is_refused = True

    def _end_of_line(self) -> int | None:
        return next((place for place, byte in enumerate(self._unread) if byte in _ENDS), None)

    async def _read_more(self) -> bool:
        """Read what is there, or Ctrl-C for the signal of it; return False at the end of input."""
        if self._is_at_end:
            self._is_at_end = False
            return False
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            await first_of(readable.wait(), self._interrupted.wait())
        finally:
            loop.remove_reader(self._fd)
        if self._interrupted.is_set():
            self._interrupted.clear()
            self._unread += _CTRL_C
            return True
        typed = os.read(self._fd, _READ_BYTES)
        self._unread += typed
        return bool(typed)

    def _read_ahead(self) -> None:
        typed = os.read(self._fd, _READ_BYTES)
        if not typed:  # Ctrl-D, which leaves at the prompt; a second time in a row it is the end of the terminal
            if self._is_at_end:
                asyncio.get_running_loop().remove_reader(self._fd)
            self._is_at_end = True
        for byte in typed:
            if byte == _CTRL_C[0]:
                self.interrupt()
            elif byte == _CTRL_Z[0]:
                self._suspend()
            else:
                self._unread += bytes((byte,))

    def _suspend(self) -> None:
        with self._attributes(_is_usual):
            os.kill(0, signal.SIGTSTP)  # as the terminal does: all that it was started with

    @contextmanager
    def _attributes(self, change: Callable[[list[Any]], None]) -> Generator[None]:
        before = termios.tcgetattr(self._fd)
        changed = termios.tcgetattr(self._fd)
        change(changed)
        termios.tcsetattr(self._fd, termios.TCSANOW, changed)
        try:
            yield
        finally:
            termios.tcsetattr(self._fd, termios.TCSANOW, before)


def _reads_keys(attributes: list[Any]) -> None:
    attributes[_LFLAG] &= ~termios.ISIG
    attributes[_CC][termios.VEOL], attributes[_CC][termios.VEOL2] = _CTRL_C, _CTRL_Z


def _is_silent(attributes: list[Any]) -> None:
    attributes[_LFLAG] &= ~termios.ECHO


def _is_usual(attributes: list[Any]) -> None:
    attributes[_LFLAG] |= termios.ISIG | termios.ECHO


def _text(line: bytes) -> str | None:
    """Return what was typed; None, and say why, where it is no text or not the whole of it."""
    if len(line) >= _MOST_OF_A_LINE:
        print_err(
            f"Nothing was sent: this terminal passes on {_MOST_OF_A_LINE:,} bytes of a line; the rest is lost."
            f" Break it into lines, with a line of {_MANY} before and after them, or write it with /edit."
        )
        return None
    try:
        return line.decode()
    except UnicodeDecodeError as exc:
        print_err(f"Nothing was sent: the line is not UTF-8 text, from byte {exc.start} on.")
        return None
