"""The program on a terminal of its own, so that Ctrl-C and Ctrl-D are what they are for a person."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import agentapi_mcp

# The terminal must be the controlling one of a session of its own, else Ctrl-C is only a byte.
_BEGIN = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'agentapi_mcp', *sys.argv[1:]])"
)
_SOURCE = str(Path(agentapi_mcp.__file__).parents[1])
_PATIENCE = 30


class Terminal:
    """What a person types and sees; `seen` is all that has been printed."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self.process = process
        self.seen = ""
        self._side = side

    def type(self, text: str) -> None:
        r"""Press keys; a line ends with a carriage return, Ctrl-C is \\x03, Ctrl-D \\x04."""
        os.write(self._side, text.encode())

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


@contextmanager
def terminal(env: Mapping[str, str], *words: str) -> Generator[Terminal]:
    """Start the program on a terminal."""
    ours, its = pty.openpty()
    process = subprocess.Popen(  # noqa: S603  # the program itself
        [sys.executable, "-c", _BEGIN, *words], stdin=its, stdout=its, stderr=its, env={"PYTHONPATH": _SOURCE, **env}
    )
    os.close(its)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
