"""The server as its transports show it: over a pair of pipes, and over HTTP on a loopback port."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper

import anyio
import uvicorn
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from agentapi_mcp.cli.http_protocol import HttpProtocol
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.server.server import EdgeServer
from agentapi_mcp.edges.mcp.transports.http import mcp_mount
from agentapi_mcp.edges.mcp.transports.stdio import serve_stdio
from agentapi_mcp.web.application import WebApplication, WebOptions, create_web
from agentapi_mcp.web.mounts import Mount
from tests.support.http_servers import serving

Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]


@dataclass(frozen=True)
class Served:
    """Where an application is served."""

    base: str
    edge: WebApplication

    @property
    def mcp(self) -> str:
        """The address of Streamable HTTP."""
        return f"{self.base}/mcp"

    @property
    def sse(self) -> str:
        """The address of SSE."""
        return f"{self.base}/sse"


@dataclass
class OpenServices:
    """Services that are there."""

    opened: Services

    def find(self) -> Services:
        """Return them."""
        return self.opened

    async def services(self) -> Services:
        """Return them."""
        return self.opened


def mcp_application(server: EdgeServer, options: WebOptions | None = None, *more: Mount) -> WebApplication:
    """Build the HTTP application as `serve` does: the MCP server, and what else is mounted."""
    given = options or WebOptions()
    mcp = mcp_mount(server, oauth=given.oauth, body_bytes=given.limits.body_bytes)
    return create_web(server.parts.services_provider, [*more, mcp], given)


@asynccontextmanager
async def serve_app(edge: WebApplication, port: socket.socket | None = None) -> AsyncGenerator[Served]:
    """Serve an application by the real HTTP server.

    `port` is for one that must know its own address before.
    """
    config = uvicorn.Config(
        edge.app,
        http=HttpProtocol,
        log_config=None,
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=2,
        proxy_headers=False,
    )
    async with serving(config, port) as (host, number):
        try:
            yield Served(f"http://{host}:{number}", edge)
        finally:
            edge.stop()


@asynccontextmanager
async def piped(server: EdgeServer) -> AsyncGenerator[Streams]:
    """Serve over two pipes as over stdin and stdout, and give the client's ends."""
    to_server, to_client = os.pipe(), os.pipe()
    stdin, stdout = _reader(to_server[0]), _writer(to_client[1])
    replies, requests = _reader(to_client[0]), _writer(to_server[1])
    incoming, heard = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    said, outgoing = anyio.create_memory_object_stream[SessionMessage](0)

    async def serve() -> None:
        await serve_stdio(server, anyio.wrap_file(stdin), anyio.wrap_file(stdout))
        stdout.close()

    async def read() -> None:
        async with incoming:
            while line := await asyncio.to_thread(replies.readline):
                with suppress(anyio.BrokenResourceError):  # the client has left, and the server's last words remain
                    await incoming.send(SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False)))

    async def write() -> None:
        async with outgoing:
            async for message in outgoing:
                line = json.dumps(message.message.model_dump(mode="python", by_alias=True, exclude_unset=True)) + "\n"
                await asyncio.to_thread(requests.write, line)
                await asyncio.to_thread(requests.flush)
        requests.close()

    # Closed from right to left: what is written to first, so that a thread which still reads finds an end and lets go.
    with stdin, replies, stdout, requests:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work()) for work in (serve, read, write)]
            async with heard, said:
                yield heard, said
            await asyncio.wait(tasks)


def _reader(descriptor: int) -> TextIOWrapper:
    return TextIOWrapper(os.fdopen(descriptor, "rb"), encoding="utf-8")


def _writer(descriptor: int) -> TextIOWrapper:
    return TextIOWrapper(os.fdopen(descriptor, "wb"), encoding="utf-8")
