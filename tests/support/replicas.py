"""Several replicas behind one address, without affinity."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.cli.http_protocol import HttpProtocol
from agentapi_mcp.web.application import WebApplication
from tests.support.edges import serve_app
from tests.support.http_servers import serving


class Alternating:
    """Sends each request to another replica than the one before, as the worst load balancer would."""

    def __init__(self, *apps: ASGIApp) -> None:
        self._apps = apps
        self._turn = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        self._turn += 1
        await self._apps[self._turn % len(self._apps)](scope, receive, send)


@asynccontextmanager
async def serve_replicas(edges: Sequence[WebApplication]) -> AsyncGenerator[str]:
    """Serve all of them, and give the address of Streamable HTTP."""
    async with AsyncExitStack() as stack:
        for edge in edges:
            await stack.enter_async_context(serve_app(edge))
        app = Alternating(*(edge.app for edge in edges))
        config = uvicorn.Config(app, http=HttpProtocol, lifespan="off", log_config=None)
        async with serving(config) as (host, port):
            try:
                yield f"http://{host}:{port}/mcp"
            finally:
                for edge in edges:
                    edge.stop()
