"""The thread that answers on stdin and stdout while the main thread imports the server, and hands both over to it."""

import json
import os
import select
import signal
import sys
import time
from _thread import allocate_lock, start_new_thread  # `threading` takes twice the time, and the first who imports it
from types import FrameType

from agentapi_mcp.edges.mcp.front.answers import CHANGED, Answer, Front
from agentapi_mcp.edges.mcp.front.messages import Members

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_TOOLSETS, _PREFIX = "AGENTAPI_TOOLSETS", "AGENTAPI_TOOL_PREFIX"
# What is kept for the server, and what the client has not read yet: with more of either, nothing more is read.
_MOST_KEPT = 262_144
_MOST_UNWRITTEN = 262_144
_PIECE = 65_536
# Imports would else keep the interpreter for 5 ms at a time, and every answer waits for some of these.
_SWITCH_SECONDS = 0.0005
_LAST_WORDS_SECONDS = 5
_INTERNAL_ERROR = -32603  # JSON-RPC 2.0, section 5.1


class Handover:
    """What the server takes over: it reads `unread` before stdin, and writes `unwritten` before anything else.

    `opening` is a request that the server must read first of all. The client has its `answer`, so that of the server
    is dropped. `acknowledged`: the client has this line, too; `instead` takes its place. `has_ended`: there is nothing
    more on stdin.
    """

    __slots__ = ("acknowledged", "answer", "has_ended", "instead", "opening", "unread", "unwritten")

    def __init__(self) -> None:
        self.opening: bytes | None = None
        self.answer: bytes | None = None
        self.acknowledged: bytes | None = None
        self.instead = b""
        self.unread = bytearray()
        self.unwritten = bytearray()
        self.has_ended = False


class FrontThread:
    """Answers what the front knows, in the client's order, until `hand_over`."""

    def __init__(self, front: Front, stdin: int = _STDIN, stdout: int = _STDOUT) -> None:
        self._front = front
        self._stdin = stdin
        self._stdout = stdout
        self._handover = Handover()
        self._lines = bytearray()  # lines that were not looked at yet, and the beginning of the next
        self._owes_change = False
        self._is_broken = False  # nothing can be read or written any more; the server will see why
        self._woken, self._wake = os.pipe()
        self._ended = allocate_lock()
        self._switch_seconds = sys.getswitchinterval()

    def start(self) -> None:
        """Start the thread; no signal is ever handled in it, since one would interrupt its reading."""
        self._ended.acquire()
        sys.setswitchinterval(_SWITCH_SECONDS)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            start_new_thread(self._run, ())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def hand_over(self) -> Handover:
        """Stop, and return what is left to do; from now on the thread touches neither stdin nor stdout."""
        os.write(self._wake, b"!")
        self._ended.acquire()
        os.close(self._wake)
        os.close(self._woken)
        sys.setswitchinterval(self._switch_seconds)
        handover = self._handover
        handover.unread += self._lines
        self._lines.clear()
        if self._owes_change:
            handover.unwritten += CHANGED
        return handover

    def refuse(self, words: str) -> None:
        """Answer all that waits with why there is no server, as far as the client reads it in time."""
        handover = self.hand_over()
        unwritten = handover.unwritten
        for line in bytes(handover.unread).split(b"\n"):
            unwritten += _refusal(line, words)
        poll = select.poll()
        poll.register(self._stdout, select.POLLOUT)
        until = time.monotonic() + _LAST_WORDS_SECONDS
        while unwritten and poll.poll(max(0, until - time.monotonic()) * 1000):
            try:
                self._write()
            except OSError:
                return

    def _run(self) -> None:
        try:
            while self._step():
                pass
        finally:
            self._ended.release()

    def _step(self) -> bool:
        """Wait for what can be done, and do it; return False when the server is there."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self._may_read():
            poll.register(self._stdin, select.POLLIN)
        if self._handover.unwritten and not self._is_broken:
            poll.register(self._stdout, select.POLLOUT)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._woken in ready:
            return False
        try:
            if self._stdout in ready:
                self._write()
            if self._stdin in ready:
                self._read()
        except BlockingIOError:
            pass  # a descriptor that another process set so
        except OSError:
            self._is_broken = True
        return True

    def _may_read(self) -> bool:
        handover = self._handover
        return (
            not handover.has_ended
            and not self._is_broken
            and len(handover.unread) + len(self._lines) < _MOST_KEPT
            and len(handover.unwritten) < _MOST_UNWRITTEN
        )

    def _write(self) -> None:
        # No more than a pipe takes at once when it says that it has room: the thread must never wait for the reader.
        unwritten = self._handover.unwritten
        del unwritten[: os.write(self._stdout, unwritten[: select.PIPE_BUF])]
        self._take_lines()

    def _read(self) -> None:
        piece = os.read(self._stdin, _PIECE)
        self._handover.has_ended = not piece
        self._lines += piece
        self._take_lines()

    def _take_lines(self) -> None:
        """Answer or keep the lines that have come, until the client has too much to read."""
        lines, done = bytes(self._lines), 0
        try:
            while len(self._handover.unwritten) < _MOST_UNWRITTEN and (end := lines.find(b"\n", done)) >= 0:
                line = lines[done : end + 1]
                if not line.isspace():  # the server passes over those, too
                    self._take(line, self._front.answer(line))
                done = end + 1
        finally:
            del self._lines[:done]

    def _take(self, line: bytes, answer: Answer | None) -> None:
        handover = self._handover
        if answer is None:
            handover.unread += line
            return
        if answer.forwarded:
            handover.opening, handover.answer = line, answer.line
        if answer.instead:
            handover.unread += line
            handover.acknowledged, handover.instead = answer.line, answer.instead
        handover.unwritten += answer.line
        self._owes_change = self._owes_change or answer.changed


def start(toolsets: str | None) -> FrontThread | None:
    """Start to answer on the process's stdin and stdout; None if there is nothing to answer from.

    `toolsets` are those of the command line. Until the server takes over, a signal ends the process as it ends the
    server.
    """
    front = Front.load(_setting(_TOOLSETS) if toolsets is None else toolsets, _setting(_PREFIX))
    if front is None or not _are_open():
        return None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    thread = FrontThread(front)
    thread.start()
    return thread


def _setting(wanted: str) -> str | None:
    """Read a setting as `Settings` does: in whatever case, the last that is not empty."""
    found = [value for name, value in os.environ.items() if value and name.upper() == wanted]  # noqa: TID251  # `Settings` takes half a second to import
    return found[-1] if found else None


def _are_open() -> bool:
    """Return whether there are three standard streams; else what is opened next would take the place of one."""
    try:
        return all(os.fstat(descriptor) for descriptor in (_STDIN, _STDOUT, _STDERR))
    except OSError:
        return False


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


def _refusal(line: bytes, words: str) -> bytes:
    """Return the error for a line that is a request, else nothing."""
    try:
        message: object = json.loads(line.decode("utf-8", "replace"), object_hook=Members)
    except (ValueError, RecursionError):
        return b""
    key = message.get("id") if isinstance(message, Members) and "method" in message else None
    if not isinstance(key, str | int) or isinstance(key, bool):
        return b""
    error = {"code": _INTERNAL_ERROR, "message": words}
    return json.dumps({"jsonrpc": "2.0", "id": key, "error": error}).encode() + b"\n"
