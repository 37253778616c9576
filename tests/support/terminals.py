"""The program on a terminal of its own, so that Ctrl-C and Ctrl-D are what they are for a person."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import agentapi_mcp

# The terminal must be the controlling one of a session of its own, else Ctrl-C is only a byte.
_BEGIN = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
_SOURCE = str(Path(agentapi_mcp.__file__).parents[1])
_PATIENCE = 30
_WRITTEN = 1024  # bytes at once, which the other side has room for


class Terminal:
    """What a person types and sees; `seen` is all that has been printed."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self.process = process
        self.seen = ""
        self._side = side

    def type(self, text: str) -> None:
        r"""Press keys; a line ends with a carriage return, Ctrl-C is \\x03, Ctrl-D \\x04."""
        keys = text.encode(errors="surrogateescape")
        while keys:
            readable, writable, _ = select.select([self._side], [self._side], [], _PATIENCE)
            assert readable or writable, self.seen
            if readable:
                self._read()
            if writable:
                keys = keys[os.write(self._side, keys[:_WRITTEN]) :]

    def paste(self, text: str) -> None:
        """Paste a text, as a terminal with bracketed paste does, which sends ends of lines as Enter."""
        self.type("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~")

    def resize(self, columns: int, rows: int = 30) -> None:
        """Give the terminal another size, and let the program know."""
        fcntl.ioctl(self._side, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def hang_up(self) -> None:
        """Close the terminal, as its window does."""
        if self._side >= 0:
            os.close(self._side)
            self._side = -1

    @property
    def is_usual(self) -> bool:
        """Whether the terminal echoes, passes on whole lines and makes Ctrl-C a signal, as it does for a shell."""
        usual = termios.ECHO | termios.ICANON | termios.ISIG
        return termios.tcgetattr(self._side)[3] & usual == usual

    def interrupt(self) -> None:
        """Press Ctrl-C once the program waits for a key: a signal just before that waits for the key, too."""
        end = time.monotonic() + _PATIENCE
        while Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < end, self.seen
        self.type("\x03")

    def until(self, text: str, *, after: int = 0) -> int:
        """Read until the text has been printed, and return where it ends."""
        end = time.monotonic() + _PATIENCE
        while self.seen.find(text, after) < 0:
            assert time.monotonic() < end, self.seen
            if not self._read():
                break
        assert self.seen.find(text, after) >= 0, self.seen
        return self.seen.find(text, after) + len(text)

    def leave(self) -> int:
        """Read to the end, and return the exit status."""
        while self._read():
            pass
        return self.process.wait(_PATIENCE)

    def _read(self) -> bool:
        readable, _, _ = select.select([self._side], [], [], _PATIENCE)
        assert readable, self.seen
        try:
            printed = os.read(self._side, 65_536)
        except OSError:  # Linux's way to say that nobody holds the other side
            return False
        self.seen += printed.decode(errors="replace")
        return bool(printed)


def plain(text: str) -> str:
    """Return what was printed without the sequences that style it or move the cursor."""
    return re.sub(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)", "", text)


@contextmanager
def terminal(env: Mapping[str, str], *words: str, columns: int = 80) -> Generator[Terminal]:
    """Start the program on a terminal."""
    with started_at_terminal(env, sys.executable, "-m", "agentapi_mcp", *words, columns=columns) as person:
        yield person


@contextmanager
def started_at_terminal(env: Mapping[str, str], *command: str, columns: int = 80) -> Generator[Terminal]:
    """Start any command on a terminal, such as a shell with job control."""
    ours, its = pty.openpty()
    process = subprocess.Popen(  # noqa: S603  # of a test
        [sys.executable, "-c", _BEGIN, *command], stdin=its, stdout=its, stderr=its, env={"PYTHONPATH": _SOURCE, **env}
    )
    os.close(its)
    person = Terminal(process, ours)
    try:
        person.resize(columns)
        yield person
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        person.hang_up()
