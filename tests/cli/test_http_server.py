"""uvicorn as `serve` stops it."""

import asyncio
import socket

import uvicorn
from anyio.lowlevel import checkpoint
from starlette.responses import PlainTextResponse

from agentapi_mcp.cli.http_protocol import HttpProtocol
from agentapi_mcp.cli.http_server import HttpServer


async def test_a_connection_accepted_at_the_last_moment_is_answered_before_it_is_closed() -> None:
    config = uvicorn.Config(PlainTextResponse("served"), http=HttpProtocol, log_config=None, lifespan="off")
    config.load()
    server = HttpServer(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        await server.startup([listener])
        reader, writer = await asyncio.open_connection(*address)
        while not server.server_state.connections:
            await checkpoint()
        async with asyncio.TaskGroup() as group:
            writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            group.create_task(server.shutdown([listener]))
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"served")
