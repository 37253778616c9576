"""The server over HTTP: Streamable HTTP in both eras and SSE for old clients, as one application with one lifespan."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

import anyio
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import INVALID_REQUEST
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.core import contexts
from agentapi_mcp.core.clocks import SystemClock
from agentapi_mcp.core.errors import AgentApiError
from agentapi_mcp.core.ports import Clock
from agentapi_mcp.core.services import Gate
from agentapi_mcp.mcp.admissions import EVERY, admission_of, ended_with
from agentapi_mcp.mcp.callers import address_of
from agentapi_mcp.mcp.exchanges import Wire
from agentapi_mcp.mcp.handshake_http import HandshakeHttp
from agentapi_mcp.mcp.http_auth import WELL_KNOWN, Accepted, Authentication, OAuth
from agentapi_mcp.mcp.http_guards import Hosts, HttpLimits, Limits, RequestIds, security_settings
from agentapi_mcp.mcp.http_scopes import StepUp
from agentapi_mcp.mcp.server import EdgeServer

_READY_WITHIN = 3.0
_EXPOSED = ["Mcp-Session-Id", "X-Request-Id", "WWW-Authenticate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """Who may reach the server: names it goes by, web origins that may call it, and the tokens that let in.

    Without a token of its own and `oauth` nobody is asked for one, unless by `needs_token`.
    Who holds a stream open is looked at again each `admitted_every`.
    `pages` are for people's browsers, under /keys/; they look after their visitors themselves.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    oauth: OAuth | None = None
    needs_token: bool = False
    pages: ASGIApp | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    admitted_every: timedelta = EVERY
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class HttpEdge:
    """The application, and the switch that ends its streams and its readiness before the process stops."""

    app: Starlette
    stop: Callable[[], None]


def create_http(server: EdgeServer, options: HttpOptions) -> HttpEdge:
    """Build the application; it may be served once."""
    security = security_settings(options.hosts, options.origins)
    endpoints = _Endpoints(server, security, options.limits)

    async def alive(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_request: Request) -> Response:
        fault = "stopping" if endpoints.stopping else await _fault(server.parts.gate)
        return JSONResponse({"status": fault or "ok"}, 503 if fault else 200)

    app = Starlette(
        routes=[
            Route("/healthz", alive),
            Route("/readyz", ready),
            Route("/mcp", endpoint=endpoints.streamable),
            Route("/mcp/", endpoint=endpoints.streamable),  # a redirect would lose the body in some clients
            Route("/sse", endpoint=endpoints.sse),
            Mount("/messages", app=endpoints.messages),
            *_metadata_routes(options.oauth),
        ],
        middleware=[
            Middleware(RequestIds),
            Middleware(Pages, pages=options.pages),
            Middleware(Hosts, security=security),
            Middleware(
                CORSMiddleware,
                allow_origin_regex="|".join(map(_origin_pattern, security.allowed_origins)),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=_EXPOSED,
            ),
            Middleware(
                Authentication,
                gate=server.parts.gate,
                accepted=Accepted(options.token, options.oauth, options.needs_token),
                clock=options.clock,
                admitted_every=options.admitted_every,
            ),
            Middleware(Limits, limits=options.limits),
            Middleware(StepUp, gate=server.parts.gate, oauth=options.oauth, action_of_tool=server.parts.tools.action),
        ],
        exception_handlers={404: _nothing_here},
        lifespan=endpoints.lifespan,
    )
    return HttpEdge(app, endpoints.stop)


def _metadata_routes(oauth: OAuth | None) -> list[Route]:
    """Serve the metadata at the resource's path and at the root, where some clients look first."""
    if oauth is None:
        return []
    paths = dict.fromkeys((urlsplit(oauth.metadata_url).path, WELL_KNOWN, f"{WELL_KNOWN}/mcp", f"{WELL_KNOWN}/sse"))
    return [Route(path, oauth.metadata) for path in paths]


class Pages:
    """Hands what browsers ask for to the pages, past the guards of the protocol."""

    def __init__(self, app: ASGIApp, pages: ASGIApp | None) -> None:
        self._app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._pages is None or scope["type"] != "http" or not scope["path"].startswith("/keys/"):
            await self._app(scope, receive, send)
            return
        contexts.address.set(address_of(scope))
        await self._pages(scope, receive, send)


class _Asgi:
    """An ASGI application that Starlette does not take for a function of a request."""

    def __init__(self, serve: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._serve(scope, receive, send)


class _Endpoints:
    def __init__(self, server: EdgeServer, security: TransportSecuritySettings, limits: HttpLimits) -> None:
        self._server = server
        self._open = set[anyio.CancelScope]()
        self.stopping = False
        self._modern = StreamableHTTPSessionManager(
            server, stateless=True, security_settings=security, max_request_body_size=limits.body_bytes
        )
        logging.getLogger("mcp.server.sse").setLevel(logging.CRITICAL)  # its lines hold what clients sent
        logging.getLogger("sse_starlette").setLevel(logging.INFO)  # below, they hold what is answered
        self._sse = SseServerTransport("/messages/", security, limits.body_bytes)
        self._handshake: HandshakeHttp | None = None
        self.streamable = _Asgi(self._serve_streamable)
        self.sse = _Asgi(self._serve_sse)
        self.messages = _Asgi(self._sse.handle_post_message)

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncGenerator[None]:
        """Hold what both eras of Streamable HTTP run beside their requests."""
        parts = self._server.parts
        async with self._modern.run(), self._server.lifespan(self._server) as background:
            self._handshake = HandshakeHttp(
                server=self._server,
                callers=parts.callers,
                cancellations=parts.cancellations,
                subscriptions=parts.subscriptions,
                background=background,
            )
            yield

    def stop(self) -> None:
        """End the streams politely, and be ready no more."""
        self.stopping = True
        self._server.parts.subscriptions.close()
        for scope in tuple(self._open):
            scope.cancel()

    async def _serve_streamable(self, scope: Scope, receive: Receive, send: Send) -> None:
        version = Headers(scope=scope).get("mcp-protocol-version")
        if self._handshake is None:
            raise RuntimeError("the application is served without its lifespan")
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            await self._modern.handle_request(scope, receive, send)
        else:
            await self._handshake(scope, receive, send)

    async def _serve_sse(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire = Wire(scope, receive, send)
        if scope["method"] != "GET":
            message = "Open the stream with GET; /mcp is the newer transport."
            await wire.refuse(405, INVALID_REQUEST, message, [(b"allow", b"GET")])
            return
        serving = anyio.CancelScope()
        self._open.add(serving)
        try:
            async with self._sse.connect_sse(wire.scope, receive, send) as (incoming, outgoing):
                with serving:  # not round the SDK's own tasks, which close what they opened once this has ended
                    async with ended_with(admission_of(scope), serving.cancel):
                        await self._server.run(incoming, outgoing, self._server.create_initialization_options())
        finally:
            self._open.discard(serving)


async def _fault(gate: Gate) -> str | None:
    try:
        async with asyncio.timeout(_READY_WITHIN):
            services = await gate.services()
            return None if await services.health.is_ready() else "not ready"
    except (AgentApiError, TimeoutError):
        return "not ready"


def _origin_pattern(allowed: str) -> str:
    return re.escape(allowed[:-2]) + r":\d+" if allowed.endswith(":*") else re.escape(allowed)


async def _nothing_here(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "There is nothing here; the MCP endpoint is /mcp."}, 404)
