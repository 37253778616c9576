"""The bridge: what a client starts over stdio, where one server serves all clients of a home (docs/design/resident.md).

It passes lines on as they are. When the server behind it ends, its client hears of it in words and not by an end.
"""

import os
import time
from _socket import SHUT_WR, socket
from _thread import allocate_lock, start_new_thread
from collections.abc import Sequence
from select import POLLERR, POLLHUP, POLLIN, poll

from agentapi_mcp.base import descriptors
from agentapi_mcp.base.locks import pause
from agentapi_mcp.base.long_lines import LineBound
from agentapi_mcp.resident.before import AnswersBefore
from agentapi_mcp.resident.environment import Environment
from agentapi_mcp.resident.ledger import Ledger, Request
from agentapi_mcp.resident.place import NoPlaceError, find_place
from agentapi_mcp.resident.protocol import BYE, MARK, NUMBER, OK, RELOAD, SYNC, Hello, read_bye, synced
from agentapi_mcp.resident.starting import Starter

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_CHUNK = 1 << 16
# Seconds for the end of the session when the client has ended, between two tries to start a server that does not start,
# and in which it must not die more than so many times.
_LAST_WORDS, _TRY_AGAIN, _LATELY = 10.0, 2.0, 30.0
_LAST_LINES = 0.5  # in which a client that ends this process is still heard
_MOST_DEATHS, _MOST_EARLY = 5, 100
_SYNC_SECONDS = 0.05
_WRONG = 3
_INTERNAL_ERROR = -32603
_ENDED = "The server of agentapi-mcp ended while this call ran; the next call has it started again. "
# What holds in each case: the turn had not begun, was asked, or has ended (docs/turns.md, After a crash or restart).
_CHAT_ENDED = _ENDED + (
    "Send the same message again, without `new`: if it was asked already, it is not asked twice, but you get its turn "
    "with what came of the answer. With `retry: true` it is asked again, which may cost twice."
)
_CALL_ENDED = _ENDED + "Whether it was carried out is not known: look before you repeat it."
_DOES_NOT_START = "The server of agentapi-mcp does not start: {}"
_OTHER_VERSION = "another version of agentapi-mcp was installed meanwhile. Restart this client."


def serve(environment: Environment, toolsets: str | None) -> None:
    """Be the bridge until the client ends, and never return; return at once where no server comes up."""
    try:
        bridge = Bridge(environment, toolsets)
        bridge.open()
    except NoPlaceError:
        return  # the server in this process does without, and `status` tells why
    for name in environment.ignored_addresses():
        _warn(f"{name} is not read over stdio: set AGENTAPI_{name}.")
    bridge.run()


class Bridge:
    """One client's connection to the resident server, opened again when that ends."""

    def __init__(self, environment: Environment, toolsets: str | None) -> None:
        self._environment = environment
        self._toolsets = toolsets
        self._starter = self._new_starter()
        self._ledger = Ledger()
        # What answers until the first server does.
        self._before: AnswersBefore | None = AnswersBefore(
            toolsets or os.fsdecode(environment.get(b"AGENTAPI_TOOLSETS")),
            os.fsdecode(environment.get(b"AGENTAPI_TOOL_PREFIX")),
        )
        # Held while lines are sent, so that they keep their order, and while the connection is replaced.
        self._sending = allocate_lock()
        # Held from the announcement of an answer until the server has been told that the client has it.
        self._syncing = allocate_lock()
        self._announced = b""
        self._writing = allocate_lock()
        self._wanted = allocate_lock()
        self._wanted.acquire()
        self._connection: socket | None = None
        # What the client has of a server's next words already, and what takes its place.
        self._acknowledged, self._instead = b"", b""
        self._is_accepted = False
        self._is_foreign = False
        self._was_started = False
        self._has_client = True
        self._read: int | None = None
        self._deaths: list[float] = []
        self._early = 0
        self._has_spoken = False
        self._broken = ""
        self._broken_at = 0.0

    def open(self) -> None:
        """Connect.

        Raises:
            NoPlaceError: there can be no resident server here.
        """
        connection, self._was_started = self._starter.open()
        hello = Hello(NUMBER, os.getpid(), _directory())
        self._is_accepted, self._is_foreign, self._read = False, False, None
        _send(connection, hello.line())
        self._connection = connection

    def run(self) -> None:
        """Pass lines on until the client ends; ends the process."""
        start_new_thread(self._read_client, ())
        start_new_thread(_watch_reader, ())
        import signal  # noqa: PLC0415  # 3 ms, for which nobody waits now

        def end(number: int, _frame: object) -> None:
            # Claude Code sends SIGINT, and says after that what it cancels.
            pause(_LAST_LINES)
            _pass_on_what_was_said()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGHUP, self._on_hangup)
        while True:
            if self._connection is not None:
                self._read_server(self._connection)
            if not self._has_client:
                self._leave()
            if not self._goes_on():
                self._wanted.acquire()
            while not self._reopen():
                self._wanted.acquire()

    def _on_hangup(self, *_: object) -> None:
        start_new_thread(self._ask_to_reload, ())  # this thread may hold what it needs

    def _ask_to_reload(self) -> None:
        """Have the server read its configuration file, as SIGHUP asks of any server."""
        with self._sending:
            if self._connection is not None:
                _send(self._connection, RELOAD + b"\n")

    def _new_starter(self) -> Starter:
        # Anew each time: the program may have been upgraded since.
        place = find_place(self._environment, self._toolsets)
        return Starter(place, self._environment.for_resident(self._environment.home()), self._toolsets)

    # --- from the client

    def _read_client(self) -> None:
        parts: list[bytes] = []
        bound = LineBound()
        while chunk := _receive(_STDIN):
            *lines, rest = bound.passed(chunk).split(b"\n")
            for line in lines:
                self._from_client(b"".join((*parts, line, b"\n")))
                parts = []
            parts.append(rest)
        if any(parts):
            self._from_client(b"".join((*parts, b"\n")))
        # A client may end because of an answer whose arrival the server does not know of yet.
        if self._syncing.acquire(timeout=_LAST_WORDS):
            self._syncing.release()
        with self._sending:
            self._has_client = False
            if self._connection is None:
                os._exit(0)
            _end(self._connection)
        pause(_LAST_WORDS)  # the server ends the session at once
        os._exit(0)

    def _from_client(self, line: bytes) -> None:
        if line.isspace():
            return
        if line.startswith(MARK):
            line = b" " + line
        # The client may send this because of an answer that the server does not know to have arrived yet.
        if self._syncing.acquire(timeout=_SYNC_SECONDS):
            self._syncing.release()
        if self._before is not None and self._answered_before(self._before, line):
            return
        self._send_on(line)
        self._ledger.read()

    def _send_on(self, line: bytes) -> None:
        with self._sending:
            if self._connection is None:
                self._while_closed(line)
                return
            self._ledger.sent(line)
            _send(self._connection, line)

    def _answered_before(self, before: AnswersBefore, line: bytes) -> bool:
        """Answer a line for a server that is not there yet; return whether that was all."""
        before.wait(at_once=self._was_started)
        with before.gate:
            answer = before.answer(line)
            if answer is None:
                return False
            if answer.forwarded:
                self._ledger.swallow(line)  # before the server can end: nobody waits for its answer
                self._send_on(line)
            if answer.instead:
                self._acknowledged, self._instead = answer.line.rstrip(b"\n"), answer.instead.rstrip(b"\n")
                self._send_on(line)
            self._write([answer.line.removesuffix(b"\n")])
        return True

    def _while_closed(self, line: bytes) -> None:
        """Take a line while there is no server: one that asks for something has it started."""
        is_request = self._ledger.is_request(line)
        self._ledger.sent(line)
        if not is_request:
            return
        if self._broken and time.monotonic() - self._broken_at < _TRY_AGAIN:
            self._refuse(self._ledger.refuse_all(), self._broken)
        elif self._wanted.locked():
            self._wanted.release()

    # --- from the server

    def _read_server(self, connection: socket) -> None:
        """Pass on what the server writes, until it ends."""
        parts: list[bytes] = []
        while chunk := _receive_from(connection):
            *lines, rest = chunk.split(b"\n")
            if lines:
                lines[0] = b"".join((*parts, lines[0]))
                parts = []
                self._from_server(connection, lines)
            parts.append(rest)
        if self._announced:  # and never came
            self._announced = b""
            self._syncing.release()

    def _from_server(self, connection: socket, lines: list[bytes]) -> None:
        passed: list[bytes] = []
        for line in lines:
            if line.startswith(SYNC):
                self._syncing.acquire()
                self._announced = line.removeprefix(SYNC)
            elif line.startswith(OK):
                self._accept(line)
            elif line.startswith(BYE):
                self._read = read_bye(line)
            else:
                passed += self._passed(line)
                if self._announced:
                    self._write(passed)
                    passed = []
                    _send(connection, synced(self._announced))
                    self._announced = b""
                    self._syncing.release()
        self._write(passed)

    def _passed(self, line: bytes) -> list[bytes]:
        """Return what the client gets of a line of the server's."""
        if self._acknowledged and line == self._acknowledged:
            self._acknowledged = b""
            return [self._instead]
        return [line] if self._ledger.passes(line) else []

    def _accept(self, line: bytes) -> None:
        """Note that the server reads; one of another version does not understand us."""
        self._is_accepted = line.split()[1:2] == [b"%d" % NUMBER]
        self._is_foreign = not self._is_accepted
        if self._is_accepted:
            self._early, self._broken = 0, ""
            if self._before is not None:
                self._write(self._before.end())
                self._before = None

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        data = b"\n".join((*lines, b""))
        self._has_spoken = True
        with self._writing:
            try:
                descriptors.write(_STDOUT, data)
            except OSError:  # nobody reads any more
                _pass_on_what_was_said()
                os._exit(0)

    def _leave(self) -> None:
        """End the process; a client that ended before the server came up is told why that did not."""
        if self._was_started and not self._is_accepted and not self._has_spoken:
            _warn(self._starter.last_words())
            os._exit(_WRONG)
        os._exit(0)

    # --- when the server has ended

    def _goes_on(self) -> bool:
        """Whether the next server is needed now; if not, the next request of the client will need it."""
        was_stopped = self._read is not None or self._starter.place.was_stopped
        with self._sending:
            self._connection = None
            reason = self._reason_to_give_up()
            if reason:
                self._break(reason)
                return False
            if not self._is_accepted:  # it has read nothing
                return not was_stopped or self._ledger.is_awaited()
            for request in self._ledger.lost(self._read, was_stopped=was_stopped):
                self._refuse([request], _CHAT_ENDED if request.tool == "chat" else _CALL_ENDED)
            return not was_stopped or self._ledger.has_unread(self._read)

    def _reason_to_give_up(self) -> str:
        """Return why there will be no next server, for now; empty if there may be one."""
        if self._is_foreign:
            return _OTHER_VERSION
        if not self._is_accepted and not self._was_started:
            # It was about to end when we came, and has read nothing.
            self._early += 1
            pause(0.01)
            return self._starter.last_words() if self._early > _MOST_EARLY else ""
        if self._read is not None:
            return ""
        now = time.monotonic()
        self._deaths = [*(death for death in self._deaths if now - death < _LATELY), now]
        if self._is_accepted:
            return self._words_of_deaths() if len(self._deaths) > _MOST_DEATHS else ""
        return self._starter.last_words() if self._broken or len(self._deaths) > 1 else ""

    def _words_of_deaths(self) -> str:
        # The last line need not be why: a server that was killed said nothing of that.
        line = self._starter.last_line()
        words = f"It said last: {line}" if line else "It did not say why."
        return f"it has ended {len(self._deaths)} times within {_LATELY:.0f} seconds. {words}"

    def _reopen(self) -> bool:
        """Connect to the next server; return whether there is one."""
        with self._sending:
            self._wanted.acquire(blocking=False)
            try:
                self._starter = self._new_starter()
                self.open()
            except NoPlaceError as exc:
                self._break(f"{exc}.")
                return False
            if self._connection is not None:
                for line in self._ledger.restart():
                    _send(self._connection, line)
            return True

    def _break(self, reason: str) -> None:
        """Answer in words from now on; whoever has had no answer yet sees a server that does not start."""
        self._broken, self._broken_at = _DOES_NOT_START.format(reason), time.monotonic()
        _warn(reason)
        if not self._has_spoken:
            os._exit(_WRONG)
        self._refuse(self._ledger.refuse_all(), self._broken)

    def _refuse(self, requests: Sequence[Request], words: str) -> None:
        if not requests:
            return
        import json  # noqa: PLC0415  # 8 ms, and most clients are never refused anything

        for request in requests:
            answer: dict[str, object] = {"jsonrpc": "2.0", "id": request.id}
            if request.method == "tools/call":
                answer["result"] = {"content": [{"type": "text", "text": words}], "isError": True}
            else:
                answer["error"] = {"code": _INTERNAL_ERROR, "message": words}
            self._write([json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")])


def _watch_reader() -> None:
    """End the process when nobody can read its answers any more; who has nothing to write would not notice."""
    # No events are asked for: what is left is that the last reader has closed its end.
    state = poll()
    state.register(_STDOUT, 0)
    if any(event & (POLLERR | POLLHUP) for _, event in state.poll()):
        _pass_on_what_was_said()
        os._exit(0)


def _pass_on_what_was_said() -> None:
    """Wait until all that the client has said is read: Codex says what it cancels just before it goes away."""
    state = poll()
    state.register(_STDIN, POLLIN)
    end = time.monotonic() + _LAST_WORDS
    while time.monotonic() < end and any(event & POLLIN for _, event in state.poll(0)):
        pause(_SYNC_SECONDS)


def _directory() -> str:
    """Return where the client started us."""
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return "?"


def _receive(fd: int) -> bytes:
    try:
        return descriptors.read(fd, _CHUNK)
    except OSError:
        return b""


def _receive_from(connection: socket) -> bytes:
    try:
        return connection.recv(_CHUNK)
    except OSError:
        return b""


def _send(connection: socket, line: bytes) -> None:
    try:
        connection.sendall(line)
    except OSError:
        return  # the reader sees the end, and what is open is sent again


def _end(connection: socket) -> None:
    try:
        connection.shutdown(SHUT_WR)
    except OSError:
        os._exit(0)


def _warn(text: str) -> None:
    try:
        os.write(_STDERR, f"agentapi-mcp: {text}\n".encode("utf-8", "replace"))
    except OSError:
        return
