"""The MCP edge over HTTP: Streamable HTTP in both eras and the deprecated SSE transport, as one mount."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import INVALID_REQUEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount as StarletteMount
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentapi_mcp.base.json_values import is_object
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.edges.mcp.deliveries import Deliveries
from agentapi_mcp.edges.mcp.error_middleware import HELD_BY_CALL
from agentapi_mcp.edges.mcp.errors import rpc_refusal
from agentapi_mcp.edges.mcp.http_dispatch import AsgiConnection, is_modern
from agentapi_mcp.edges.mcp.server.server import EdgeServer
from agentapi_mcp.edges.mcp.transports.legacy_http import LegacyHttp
from agentapi_mcp.edges.mcp.transports.negotiation import (
    OFFERED,
    ONLY_EVENTS,
    Accepted,
    accepted,
    needs_stream,
    shaped,
    version_refusal,
    with_both,
)
from agentapi_mcp.edges.mcp.transports.scope_step_up import ScopeStepUp
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, pass_on
from agentapi_mcp.web.oauth import OAuth
from agentapi_mcp.web.requests import HOLD, PRINCIPAL, head_of, json_of
from agentapi_mcp.web.stream_reauth import closed_on_expiry, grant_of

# The HTTP host has checked host and origin, and has read the body within its limit: the SDK need not.
_CHECKED = TransportSecuritySettings(enable_dns_rebinding_protection=False)
_STREAMABLE = ("/mcp", "/mcp/")  # some clients lose the body on a redirect
_POST_ALONE = "Send a POST; in the revision 2026-07-28 there is nothing to GET or to DELETE."
_HELD_ELSEWHERE = (
    "This SSE session has ended or is held by another process; the legacy HTTP+SSE transport needs a balancer with "
    "session affinity. Use /mcp, which needs none."
)


def mcp_mount(server: EdgeServer, *, oauth: OAuth | None, body_bytes: int) -> Mount:
    """Mount the server at every path that no other mount serves; the mount can be served once."""
    endpoints = _Endpoints(server, body_bytes)
    others = Starlette(
        routes=[Route("/sse", endpoint=endpoints.sse), StarletteMount("/messages", app=endpoints.messages)],
        exception_handlers={404: _nothing_here, Exception: pass_on},
    )
    app = ScopeStepUp(
        _Paths(endpoints.streamable, _Users(others)),
        services_provider=server.parts.services_provider,
        oauth=oauth,
        action_of_tool=server.parts.tools.action,
    )
    return Mount(
        paths=("/",),
        app=app,
        authentication=AuthenticationMode.REQUIRED,
        render=rpc_refusal,
        cors=True,
        exposed_headers=("Mcp-Session-Id",),
        metadata_paths=("/mcp", "/sse"),
        lifespan=endpoints.lifespan,
        stop=endpoints.stop,
        serves_while_stopping=_concerns_running_work,
    )


def _concerns_running_work(scope: Scope) -> bool:
    """Return whether a request belongs to those let in before the server stopped; another replica serves the rest.

    It ends a session, or is a notification, as a cancellation is, or an answer. The SDK's client lists the tools when a
    call is answered, to check the result, and takes a refusal of that for one of the call.
    """
    if scope["method"] != "POST":
        return scope["method"] == "DELETE"
    try:
        message = json_of(scope)
    except (ValueError, RecursionError):
        return False
    if not is_object(message):
        return False
    return "id" not in message or "method" not in message or message["method"] == "tools/list"


class _Paths:
    """Leads to Streamable HTTP without the layers that the other paths need."""

    def __init__(self, streamable: ASGIApp, others: ASGIApp) -> None:
        self._streamable = streamable
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await (self._streamable if scope["path"] in _STREAMABLE else self._others)(scope, receive, send)


class _Users:
    """Sets the user as the SDK expects it, which then accepts posts into an SSE stream from its owner only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        principal = scope.get(PRINCIPAL)
        user = _user(principal) if isinstance(principal, Principal) else None
        await self._app({**scope, "user": user}, receive, send)


def _user(principal: Principal) -> AuthenticatedUser:
    token = AccessToken(token="", client_id=str(principal.org_id), scopes=[], subject=str(principal.user_id))
    return AuthenticatedUser(token)


class _Asgi:
    """An ASGI application as a class, since Starlette would call a function with a request."""

    def __init__(self, serve: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._serve(scope, receive, send)


class _Endpoints:
    def __init__(self, server: EdgeServer, body_bytes: int) -> None:
        self._server = server
        self._open = set[anyio.CancelScope]()
        self._modern = StreamableHTTPSessionManager(server, stateless=True, security_settings=_CHECKED)
        self._modern_app = self._modern.asgi_app.app  # behind the limit of a body, which is read already
        logging.getLogger("mcp.server.sse").setLevel(logging.CRITICAL)  # it logs what clients send
        logging.getLogger("sse_starlette").setLevel(logging.INFO)  # at debug it logs responses
        self._sse = SseServerTransport("/messages/", _CHECKED, body_bytes)
        self._legacy: LegacyHttp | None = None
        self.streamable = Deliveries(self._serve_streamable)
        self.sse = _Asgi(self._serve_sse)
        self.messages = _Asgi(self._serve_messages)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Run the background tasks of both eras of Streamable HTTP."""
        parts = self._server.parts
        async with self._modern.run(), self._server.lifespan(self._server) as background:
            self._legacy = LegacyHttp(
                server=self._server,
                callers=parts.callers,
                cancellations=parts.cancellations,
                subscriptions=parts.subscriptions,
                background=background,
            )
            yield

    def stop(self) -> None:
        """End the streams before the process stops."""
        self._server.parts.subscriptions.close()
        for scope in tuple(self._open):
            scope.cancel()

    async def _serve_streamable(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._legacy is None:
            raise RuntimeError("the application is served without its lifespan")
        wire, takes = AsgiConnection(scope, receive, send), accepted(head_of(scope))
        if not any(takes) and scope["method"] == "POST":
            await wire.refuse(HTTPStatus.NOT_ACCEPTABLE, INVALID_REQUEST, OFFERED)
            return
        refused = version_refusal(scope)
        if refused is not None:
            await wire.reply(HTTPStatus.BAD_REQUEST, refused)
        elif is_modern(head_of(scope)):
            await self._serve_modern(wire, takes)
        else:
            await self._legacy(scope, receive, send if takes.json else shaped(send, takes))

    async def _serve_modern(self, wire: AsgiConnection, takes: Accepted) -> None:
        scope, send = wire.scope, wire.send
        if scope["method"] != "POST":
            await wire.refuse(405, INVALID_REQUEST, _POST_ALONE, [(b"allow", b"POST")])
            return
        if not takes.events and needs_stream(scope):
            await wire.refuse(HTTPStatus.NOT_ACCEPTABLE, INVALID_REQUEST, ONLY_EVENTS)
            return
        await self._modern_app(with_both(scope), wire.receive, shaped(send, takes))

    async def _serve_sse(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire = AsgiConnection(scope, receive, send)
        if scope["method"] != "GET":
            message = "Open the stream with GET; /mcp is the newer transport."
            await wire.refuse(405, INVALID_REQUEST, message, [(b"allow", b"GET")])
            return
        if not accepted(head_of(scope)).events:
            await wire.refuse(HTTPStatus.NOT_ACCEPTABLE, INVALID_REQUEST, ONLY_EVENTS)
            return
        serving = anyio.CancelScope()
        self._open.add(serving)
        try:
            async with self._sse.connect_sse(wire.scope, receive, send) as (incoming, outgoing):
                with serving:  # not around the SDK's own tasks, which must close what they opened after this has ended
                    async with closed_on_expiry(grant_of(scope), serving.cancel):
                        await self._server.run(incoming, outgoing, self._server.create_initialization_options())
        finally:
            self._open.discard(serving)

    async def _serve_messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_unknown = False

        async def answer(message: Message) -> None:
            nonlocal is_unknown
            is_unknown = is_unknown or message.get("status") == HTTPStatus.NOT_FOUND
            if not is_unknown:
                await send(message)

        # The post ends at once, and the call goes on in the task of the stream: so the call itself is held open.
        await self._sse.handle_post_message({**scope, HELD_BY_CALL: scope[HOLD]}, receive, answer)
        if is_unknown:  # in the SDK's words, nobody would find out what the balancer lacks
            await AsgiConnection(scope, receive, send).refuse(HTTPStatus.NOT_FOUND, INVALID_REQUEST, _HELD_ELSEWHERE)


async def _nothing_here(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "There is nothing here; the MCP endpoint is /mcp."}, HTTPStatus.NOT_FOUND)
