"""The stdio transport; stdout carries nothing but protocol messages."""

import asyncio
import fcntl
import json
import os
import re
import select
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from io import BufferedWriter, TextIOWrapper
from typing import Self, cast

import anyio
from anyio import AsyncFile
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from agentapi_mcp.base.json_bounds import BOUNDS, JsonBounds, JsonBoundsError
from agentapi_mcp.base.json_values import as_object, is_list, is_object
from agentapi_mcp.base.long_lines import LONGEST_LINE, is_too_long
from agentapi_mcp.edges.mcp.cancellations import ClientConnection, connection
from agentapi_mcp.edges.mcp.deliveries import PipeDeliveries
from agentapi_mcp.edges.mcp.front.thread import Handover
from agentapi_mcp.edges.mcp.server.server import EdgeServer
from agentapi_mcp.edges.mcp.transports.envelopes import as_meant, envelope_fault
from agentapi_mcp.edges.mcp.transports.handed_over import HandedOver, Output, unread_lines
from agentapi_mcp.presentation.text import clean

Incoming = SessionMessage | Exception
_STDIN, _STDOUT, _STDERR = 0, 1, 2
# Nesting is left to the parsers, whose refusal of it still tells the id.
_BOUNDS = JsonBounds(depth=BOUNDS.containers)
# The id of a line that is not parsed, where clients write it: before all but method and version, or last of all.
_ID = r'"id"\s*:\s*(-?\d{1,15}|"[^"\\]{0,100}")\s*'
_FIRST_ID = re.compile(r'\s*\{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]{0,100}"\s*,\s*){0,2}' + _ID + ",")
_LAST_ID = re.compile(_ID + r"\}\s*\Z")
_LONGEST_END = 200
_NOT_MCP = "This is no JSON-RPC 2.0 message of the protocol."
# Something that is called an id, perhaps that of the request, and is neither a text nor a whole number.
_OTHER_ID = re.compile(r'"id"\s*:\s*(?![\s"]|-?\d{1,100}\s*[,}])')


async def serve_stdio(
    server: EdgeServer,
    stdin: AsyncFile[str] | None = None,
    stdout: AsyncFile[str] | None = None,
    *,
    client: ClientConnection | None = None,
    handover: Handover | None = None,
) -> None:
    """Serve one client until stdin ends; by default over the process's own stdin and stdout, as the front left them.

    When nobody reads stdout any more, it sets `client.broken`, and returns when stdin ends, too: a thread waits there.
    """
    client = client or ClientConnection()
    # For the tasks that serve its requests, which inherit this context.
    connection.set(client)
    try:
        with (
            nullcontext(stdin) if stdin is not None else _kept_stdin(handover) as lines,
            nullcontext(stdout) if stdout is not None else _kept_stdout() as pipe,
        ):
            async with anyio.create_task_group() as group:
                if stdout is None:
                    group.start_soon(_watch_reader, pipe.wrapped.fileno())
                await _serve(server, client, lines, pipe, handover)
                group.cancel_scope.cancel()
    except* BrokenPipeError:
        pass  # a client that died has closed both of its pipes, and its stdout may be noticed first


async def _watch_reader(descriptor: int) -> None:
    """Wait until nobody can read what is written to a pipe or a socket any more.

    Who has nothing to write would not notice.

    Raises:
        BrokenPipeError: the last reader has closed its end.
    """
    kind = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    # A pipe is readable at this end when the other one is closed; a socket may be for other reasons.
    loop.add_reader(descriptor, changed.set)
    try:
        await changed.wait()
    finally:
        loop.remove_reader(descriptor)
    state = select.poll()
    state.register(descriptor, 0)
    if state.poll(0):
        raise BrokenPipeError


async def _serve(
    server: EdgeServer,
    client: ClientConnection,
    lines: AsyncFile[str],
    pipe: AsyncFile[str],
    handover: Handover | None,
) -> None:
    if handover is None:
        client.pipe = PipeDeliveries(pipe, client.ended.is_set, client.announce)
        await _exchange(server, client, _BoundedLines(lines))
        return
    taken = HandedOver(handover, lines, pipe)
    file = cast("AsyncFile[str]", taken)
    client.pipe = PipeDeliveries(file, client.ended.is_set, client.announce)
    async with anyio.create_task_group() as group:
        group.start_soon(taken.catch_up)
        await _exchange(server, client, _BoundedLines(file))
        group.cancel_scope.cancel()


class _BoundedLines:
    """The client's lines; in place of one that exceeds a bound comes a text that the SDK passes on as invalid."""

    def __init__(self, lines: AsyncFile[str]) -> None:
        self._lines = lines
        self._refused: dict[str, JSONRPCError] = {}
        self._count = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self._lines.readline()
        while line.isspace():  # as some clients end a message, or keep the pipe busy
            line = await self._lines.readline()
        line = line.removeprefix("\ufeff")  # .NET begins with one (RFC 8259, section 8.1: it may be passed over)
        if not line:
            raise StopAsyncIteration
        try:
            _check(line)
        except JsonBoundsError as exc:
            return self._refuse(_fault(_id_at_an_end(line), INVALID_REQUEST, f"The message {exc}."))
        if _OTHER_ID.search(line) and (fault := _fault_of_id(line)):
            return self._refuse(fault)
        return line

    def _refuse(self, fault: JSONRPCError) -> str:
        self._count += 1
        key = f"refused line {self._count}"
        self._refused[key] = fault
        return json.dumps(key)

    def refusal(self, fault: ValidationError) -> JSONRPCError | None:
        """Return the error of a line that was refused, if that is what the SDK passes on."""
        text: object = fault.errors(include_url=False)[0]["input"]
        return self._refused.pop(text, None) if isinstance(text, str) else None


def _check(line: str) -> None:
    if is_too_long(line):
        raise JsonBoundsError(f"is longer than {LONGEST_LINE:,} bytes")
    _BOUNDS.check(line)


def _fault_of_id(line: str) -> JSONRPCError | None:
    """Return the error of a request whose id is none, which the SDK would take for a notification and never answer."""
    try:
        message: object = json.loads(line)
    except (ValueError, RecursionError):
        return None  # the SDK finds it, too
    words = None if is_list(message) else envelope_fault(as_meant(message))
    return None if words is None else _fault(None, INVALID_REQUEST, words)


@contextmanager
def _kept_stdin(handover: Handover | None) -> Generator[AsyncFile[str]]:
    """Keep the process's stdin for the protocol; whatever else reads it meanwhile finds its end."""
    kept = fcntl.fcntl(_STDIN, fcntl.F_DUPFD_CLOEXEC, 3)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    try:
        # Never closed: a thread may still read from it when this has ended.
        yield anyio.wrap_file(unread_lines(handover or Handover(), kept))
    finally:
        os.dup2(kept, _STDIN)


@contextmanager
def _kept_stdout() -> Generator[AsyncFile[str]]:
    """Keep the process's stdout for the protocol; what others print meanwhile goes to stderr, if there is one.

    The SDK does the same for a stdout of its own, which tells nobody when a line was handed over.
    """
    kept = fcntl.fcntl(_STDOUT, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        os.dup2(_STDERR, _STDOUT)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDOUT)
        os.close(nowhere)
    try:
        # Never closed: a thread may still write to it when this has ended.
        yield anyio.wrap_file(TextIOWrapper(BufferedWriter(Output(kept)), encoding="utf-8"))
    finally:
        os.dup2(kept, _STDOUT)


async def _exchange(server: EdgeServer, client: ClientConnection, lines: _BoundedLines) -> None:
    stdin, stdout = cast("AsyncFile[str]", lines), cast("AsyncFile[str]", client.pipe)
    async with stdio_server(stdin, stdout) as (read_stream, write_stream):
        # Without a buffer: while the server is busy, the client's messages wait in its pipe.
        messages_in, messages = anyio.create_memory_object_stream[Incoming](0)
        replies = write_stream.clone()

        async def read() -> None:
            """Pass messages on; answer an invalid line with an error, which its sender may wait for."""
            async with messages_in, replies, read_stream:
                try:
                    async for item in read_stream:
                        await _pass_on(client, item, messages_in, replies, lines)
                finally:
                    # Before the streams close, which cancels what the client still waits for.
                    client.ended.set()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await server.run(messages, write_stream, server.create_initialization_options())
                group.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            client.broken.set()
            raise
        finally:
            # Stray prints go to stderr while we serve; one that is flushed later would go to the client.
            sys.stdout.flush()


async def _pass_on(
    client: ClientConnection,
    item: Incoming,
    messages: MemoryObjectSendStream[Incoming],
    replies: WriteStream[SessionMessage],
    lines: _BoundedLines,
) -> None:
    read = (lines.refusal(item) or reread(item)) if isinstance(item, ValidationError) else item
    if isinstance(read, JSONRPCError):
        await replies.send(SessionMessage(read))
        return
    said = read.message if isinstance(read, SessionMessage) else None
    if isinstance(said, JSONRPCNotification) and said.method == "notifications/cancelled" and said.params:
        # Now: Codex ends right after that, and the end would be all that the request hears of.
        client.set_reason(str(said.params.get("requestId")), said.params.get("reason"))
    await messages.send(read)


def reread(fault: ValidationError) -> SessionMessage | JSONRPCError:
    """Parse a line that the SDK rejected once more, or return the error for it.

    Lone surrogates pass in a tool's arguments, so that the tool reports them in its own message.
    """
    try:
        content = as_meant(_content_of(fault))
    except (ValueError, RecursionError):
        return _fault(None, PARSE_ERROR, "This line is not JSON.")
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_python(_cleaned(content), by_name=False))
    except ValidationError:
        return _fault(_id_of(content), INVALID_REQUEST, envelope_fault(content) or _NOT_MCP)
    except RecursionError:
        return _fault(_id_of(content), INVALID_REQUEST, "This message is nested too deeply.")


def _content_of(fault: ValidationError) -> object:
    """Return the content of the line, from a validation error: its text if it is not JSON, else the object or list."""
    errors = fault.errors(include_url=False)
    if errors[0]["type"] == "json_invalid":
        return json.loads(str(errors[0]["input"]))
    if all(is_list(error["input"]) for error in errors):
        return errors[0]["input"]
    # A member that is missing is reported with the object that it should be in, a wrong one with itself.
    lacking = sorted(errors, key=lambda error: (error["type"] != "missing", len(error["loc"])))
    return next((error["input"] for error in lacking if is_object(error["input"])), None)


def _cleaned(content: object, path: tuple[str, ...] = ()) -> object:
    if path == ("params", "arguments"):
        return content  # the tool reports a lone surrogate in its own message
    if isinstance(content, str):
        return clean(content)
    if is_list(content):
        return [_cleaned(each, (*path, "")) for each in content]
    if is_object(content):
        return {clean(name): _cleaned(part, (*path, name)) for name, part in content.items()}
    return content


def _id_at_an_end(line: str) -> str | int | None:
    found = _FIRST_ID.match(line) or _LAST_ID.search(line, max(0, len(line) - _LONGEST_END))
    return None if found is None else _id_of({"id": json.loads(found[1])})


def _id_of(content: object) -> str | int | None:
    found = as_object(content).get("id")
    if isinstance(found, str):
        return clean(found)
    # In Python, bool is an int; a JSON-RPC id is not a boolean.
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _fault(request_id: str | int | None, code: int, message: str) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=message))
