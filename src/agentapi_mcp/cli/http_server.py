"""uvicorn, stopped so that no client loses a request."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

import uvicorn
from typing_extensions import override

from agentapi_mcp.base.clock import SystemClock

# For the request of a connection that was accepted at the last moment.
_FIRST_REQUEST = timedelta(milliseconds=250)


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: running turns end and their answers are sent before the listener closes."""

    @contextmanager
    @override
    def capture_signals(self) -> Generator[None]:
        """Install no signal handlers."""
        yield

    async def close_idle_connections(self) -> None:
        """Close the connections that wait for a further request, so that their clients connect to another replica."""
        for _ in range(2):  # turns of the loop, which read what has arrived: a connection with a request is not idle
            await SystemClock().sleep(timedelta(0))
        for connection in tuple(self.server_state.connections):
            # The timer of both of uvicorn's HTTP protocols; it runs between a response and the next request alone.
            if getattr(connection, "timeout_keep_alive_task", None) is not None:
                connection.shutdown()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and let every open connection send its first request before it is closed."""
        for server in self.servers:
            server.close()
        # `cycle` is None until the first request. Closed now, such a connection would lose a request on its way.
        if any(getattr(one, "cycle", None) is None for one in self.server_state.connections):
            await SystemClock().sleep(_FIRST_REQUEST)
        await super().shutdown(sockets)
