"""JSON-RPC with a child process over stdin and stdout, one message per line, independent of any agent."""

import asyncio
import json
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import cast

from typing_extensions import override

from agentapi_mcp.backends.wire.fields import REPLY_BOUNDS
from agentapi_mcp.base.concurrency import yield_to_others
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_bounds import JsonBoundsError
from agentapi_mcp.base.json_values import as_object, as_text, load_json

METHOD_NOT_FOUND = -32601
_LARGEST_LINE = 32 * 1024 * 1024
_SHORTEST_GRACE = 0.1
# The shell execs the program and leaves a guard in its process group, which reads from a pipe that only this process
# holds open. When this process is killed, the program has two seconds to exit at EOF; then the guard kills the group.
_GUARDED = (
    "/bin/sh",
    "-c",
    '(exec <&2 >/dev/null 2>&1; read -r _; sleep 2; kill -s KILL 0) & exec 2>/dev/null; exec "$@"',
    "agentapi-mcp-guard",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A command, its working directory and its complete environment; ours is not inherited."""

    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A notification of the program, or, with an `id`, a request that expects a response."""

    method: str
    params: Mapping[str, object]
    id: object = None


class JsonRpcError(Exception):
    """The program's error response; its message is untrusted and must not reach the caller."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class JsonRpcProcess(asyncio.SubprocessProtocol):
    """A running program, leader of its own process group, which is killed with it.

    Closing, or the death of this process, closes the program's stdin, on which it should exit; what remains of its
    group is then killed, after the death of this process by a guard in the group. `envelope` returns the additional
    fields of a message by its kind: request, notification or response.
    """

    def __init__(self, envelope: Callable[[str], Mapping[str, object]], guarded_fd: int) -> None:
        self._envelope = envelope
        self._guarded: int | None = guarded_fd
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._waiting: dict[str, asyncio.Future[Mapping[str, object]]] = {}
        self._count = 0
        self._received: deque[Incoming] = deque()
        self._listening = False
        self._state_changed = asyncio.Event()
        self._is_malformed = False
        self._ended = asyncio.Event()
        self._reaped = asyncio.Event()

    @classmethod
    async def start(
        cls, program: Program, envelope: Callable[[str], Mapping[str, object]] = lambda _: {"jsonrpc": "2.0"}
    ) -> "JsonRpcProcess":
        """Start a program.

        Raises:
            BackendError: BACKEND_MISSING, if it cannot be run.
        """
        name = Path(program.command[0]).name
        if not os.access(program.command[0], os.X_OK):  # the shell's own error message would be lost
            raise BackendError(BackendFault.BACKEND_MISSING, f"The program {name} is not there any more; install it.")
        # The guard gets the read end as stderr, the one descriptor that is free beside stdin and stdout.
        guard, guarded_fd = os.pipe()
        try:
            _, process = await asyncio.get_running_loop().subprocess_exec(
                lambda: cls(envelope, guarded_fd),
                *_GUARDED,
                *program.command,
                cwd=program.cwd,
                env=dict(program.env),
                stderr=guard,
                # A process group of its own, so that its children can be killed with it.
                start_new_session=True,
            )
        except OSError as exc:
            os.close(guarded_fd)
            message = f"The program {name} cannot be run ({exc.strerror}); check that it is installed here."
            raise BackendError(BackendFault.BACKEND_MISSING, message) from exc
        except BaseException:
            os.close(guarded_fd)
            raise
        finally:
            os.close(guard)
        return process

    @property
    def has_ended(self) -> bool:
        """Whether its output has ended."""
        return self._ended.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the process was reaped."""
        return self._reaped.is_set()

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        return 0 if self._transport is None else self._transport.get_pid()

    async def request(self, method: str, params: Mapping[str, object], within: timedelta) -> Mapping[str, object]:
        """Send a request and return its result.

        Raises:
            JsonRpcError: the program responded with an error.
            BackendError: CONNECTION, if it ended; TIMEOUT_IDLE, without a response; BAD_REPLY for invalid output.
        """
        self._count += 1
        name = str(self._count)
        answered: asyncio.Future[Mapping[str, object]] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answered
        try:
            self._send("request", {"id": name, "method": method, "params": params})
            async with asyncio.timeout(within.total_seconds()):
                reply = await answered
        except TimeoutError as exc:
            raise BackendError(BackendFault.TIMEOUT_IDLE, "The agent's program did not answer in time.") from exc
        finally:
            self._waiting.pop(name, None)
        if "error" in reply:
            error = as_object(reply["error"])
            code = error.get("code")
            raise JsonRpcError(code if isinstance(code, int) else 0, as_text(error.get("message")) or "")
        return as_object(reply.get("result"))

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Send a notification."""
        self._send("notification", {"method": method, "params": params})

    def respond(self, request: Incoming, result: Mapping[str, object]) -> None:
        """Send the response to a request of the program."""
        self._send("response", {"id": request.id, "result": result})

    def refuse(self, request: Incoming, code: int, message: str) -> None:
        """Send an error response to a request of the program."""
        self._send("response", {"id": request.id, "error": {"code": code, "message": message}})

    def listen(self) -> None:
        """Queue incoming messages from now on; earlier ones are dropped."""
        self._received.clear()
        self._listening = True

    def ignore(self) -> None:
        """Stop queueing incoming messages; requests get an error response."""
        self._listening = False
        self._received.clear()

    async def receive(self, within: timedelta) -> Incoming:
        """Return the next incoming message.

        Raises:
            TimeoutError: there was none.
            BackendError: CONNECTION, if the program ended; BAD_REPLY for invalid output.
        """
        if self._received:  # a program that sends faster than it is heard must not keep the loop from others
            await yield_to_others()
        async with asyncio.timeout(within.total_seconds()):
            while not self._received:
                if self.has_ended:
                    raise self._ended_error()
                self._state_changed.clear()
                await self._state_changed.wait()
        return self._received.popleft()

    def close_soon(self, grace: timedelta) -> None:
        """Close its stdin, and kill its group after the grace period."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.close()
        loop = asyncio.get_running_loop()
        # A timer, since the callers of `close_soon` cannot await.
        loop.call_later(max(grace.total_seconds(), _SHORTEST_GRACE), self.kill)

    async def aclose(self, grace: timedelta) -> None:
        """Close its stdin, and wait for its end; kill its group after the grace period."""
        self.close_soon(grace)
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self._reaped.wait()
        except TimeoutError:
            self.kill()
            await self._reaped.wait()

    def kill(self) -> None:
        """Kill the whole process group."""
        if self._transport is None or self._reaped.is_set():
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

    # --- callbacks of the event loop

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the pipes."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))

    @override
    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Split stdout into lines."""
        del fd
        self._buffer += data
        # Split only when a line has ended: on every chunk, it would be quadratic in the length of the line.
        *lines, rest = self._buffer.split(b"\n") if b"\n" in data else (self._buffer,)
        if lines:
            self._buffer = bytearray(rest)
        for line in lines:
            self._receive_line(bytes(line))
        if len(self._buffer) > _LARGEST_LINE:
            self._fail_malformed()

    @override
    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Note the end of stdout."""
        del exc
        # The loop also reports that stdin is closed, which is not the end of the output.
        if fd == 1:
            self._end()

    @override
    def process_exited(self) -> None:
        """Kill the remaining group after the program exits."""
        self.kill()
        self._end()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything: the process is reaped, and its pipes are closed."""
        del exc
        self._reaped.set()
        self._end()
        if self._guarded is not None:
            os.close(self._guarded)
            self._guarded = None
        if self._transport is not None:
            self._transport.close()

    def _receive_line(self, line: bytes) -> None:
        try:
            message = as_object(load_json(line, bounds=REPLY_BOUNDS))
        except JsonBoundsError:
            self._fail_malformed()
            return
        except (ValueError, RecursionError):
            return  # some programs print a plain-text banner first
        method, name = as_text(message.get("method")), message.get("id")
        if method is not None:
            self._dispatch(Incoming(method=method, params=as_object(message.get("params")), id=name))
            return
        answered = self._waiting.get(str(name))
        if answered is not None and not answered.done():
            answered.set_result(message)

    def _dispatch(self, incoming: Incoming) -> None:
        if self._listening:
            self._received.append(incoming)
            self._state_changed.set()
        elif incoming.id is not None:
            self.refuse(incoming, METHOD_NOT_FOUND, "Nobody is there to answer.")

    def _fail_malformed(self) -> None:
        self._buffer.clear()
        self._is_malformed = True
        self.kill()
        self._end()

    def _end(self) -> None:
        self._ended.set()
        self._state_changed.set()
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(self._ended_error())

    def _ended_error(self) -> BackendError:
        if self._is_malformed:
            return BackendError(BackendFault.BAD_REPLY, "The agent's program said something that is too large.")
        return BackendError(BackendFault.CONNECTION, "The agent's program has ended.")

    def _send(self, kind: str, fields: Mapping[str, object]) -> None:
        if self.has_ended or self._stdin is None or self._stdin.is_closing():
            raise self._ended_error()
        line = json.dumps({**self._envelope(kind), **fields}, ensure_ascii=False)
        self._stdin.write(line.encode(errors="replace") + b"\n")
