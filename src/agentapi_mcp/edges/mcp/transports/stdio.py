"""Serving over stdin and stdout, where nothing but the protocol may appear."""

import json
import sys

import anyio
from anyio import AsyncFile
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter
from pydantic import ValidationError

from agentapi_mcp.base.json_values import as_object, is_list, is_object
from agentapi_mcp.edges.mcp.server.server import EdgeServer
from agentapi_mcp.presentation.text import clean

Incoming = SessionMessage | Exception


async def serve_stdio(
    server: EdgeServer, stdin: AsyncFile[str] | None = None, stdout: AsyncFile[str] | None = None
) -> None:
    """Serve one client until stdin ends, which is the process's own unless another is given."""
    async with stdio_server(stdin, stdout) as (read_stream, write_stream):
        messages_in, messages = anyio.create_memory_object_stream[Incoming](0)
        replies = write_stream.clone()

        async def read() -> None:
            """Pass messages on; a line that is none is answered, since its sender may wait for that."""
            async with messages_in, replies, read_stream:
                async for item in read_stream:
                    await _pass_on(item, messages_in, replies)

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await server.run(messages, write_stream, server.create_initialization_options())
                group.cancel_scope.cancel()
        finally:
            sys.stdout.flush()  # a stray print goes to stderr while we serve; later it would go to the client


async def _pass_on(
    item: Incoming, messages: MemoryObjectSendStream[Incoming], replies: WriteStream[SessionMessage]
) -> None:
    read = reread(item) if isinstance(item, ValidationError) else item
    if isinstance(read, JSONRPCError):
        await replies.send(SessionMessage(read))
    else:
        await messages.send(read)


def reread(fault: ValidationError) -> SessionMessage | JSONRPCError:
    """Read a line again that the SDK could not read, or say what is wrong with it.

    Halves of surrogate pairs are let through in a tool's arguments, so that the tool itself refuses them in words.
    """
    try:
        content = _content_of(fault)
    except (ValueError, RecursionError):
        return _fault(None, PARSE_ERROR, "This line is not JSON.")
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_python(_whole(content), by_name=False))
    except ValidationError:
        return _fault(_id_of(content), INVALID_REQUEST, "This is no JSON-RPC 2.0 message of the protocol.")
    except RecursionError:
        return _fault(_id_of(content), INVALID_REQUEST, "This message is nested too deeply.")


def _content_of(fault: ValidationError) -> object:
    """Return what the line says: the SDK keeps the line itself when it is not JSON, else the parts that do not fit."""
    errors = fault.errors(include_url=False)
    if errors[0]["type"] == "json_invalid":
        return json.loads(str(errors[0]["input"]))
    return next((error["input"] for error in errors if is_object(error["input"])), None)


def _whole(content: object, path: tuple[str, ...] = ()) -> object:
    if path == ("params", "arguments"):
        return content
    if isinstance(content, str):
        return clean(content)
    if is_list(content):
        return [_whole(each, (*path, "")) for each in content]
    if is_object(content):
        return {clean(name): _whole(part, (*path, name)) for name, part in content.items()}
    return content


def _id_of(content: object) -> str | int | None:
    found = as_object(content).get("id")
    if isinstance(found, str):
        return clean(found)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _fault(request_id: str | int | None, code: int, message: str) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=message))
