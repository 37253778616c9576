"""uvicorn as `serve` runs it, which ends as soon as its last connection does."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import uvicorn
from anyio import move_on_after
from typing_extensions import override

from agentapi_mcp.base.clock import SystemClock

_MOMENT = timedelta(milliseconds=2)


class QuickServer(uvicorn.Server):
    """uvicorn, whose end takes 100 ms at least: it looks ten times a second whether everything is over."""

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, and end with the last connection, or after the time that is configured."""
        for listener in (*self.servers, *(sockets or [])):
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with move_on_after(self.config.timeout_graceful_shutdown):
            while self.server_state.connections or self.server_state.tasks:
                await SystemClock().sleep(_MOMENT)
        for task in self.server_state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


@asynccontextmanager
async def serving(config: uvicorn.Config, port: socket.socket | None = None) -> AsyncGenerator[tuple[str, int]]:
    """Serve on a port of loopback, and give its address; without the loop that waits for signals."""
    config.load()
    server = QuickServer(config)
    server.lifespan = config.lifespan_class(config)
    with port or socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as `serve` does
        await server.startup([listener])
        try:
            yield listener.getsockname()
        finally:
            await server.shutdown([listener])
