"""The MCP edge over HTTP: Streamable HTTP in both eras and the deprecated SSE transport, as one mount."""

import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from urllib.parse import urlsplit

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import INVALID_REQUEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentapi_mcp.base.json_values import is_object
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.edges.mcp.deliveries import Deliveries
from agentapi_mcp.edges.mcp.error_middleware import HELD_BY_CALL
from agentapi_mcp.edges.mcp.errors import rpc_refusal
from agentapi_mcp.edges.mcp.http_dispatch import AsgiConnection, is_modern
from agentapi_mcp.edges.mcp.server.server import EdgeServer
from agentapi_mcp.edges.mcp.transports.envelopes import as_meant, envelope_fault
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
from agentapi_mcp.edges.mcp.transports.sse_endpoint import MESSAGES, telling
from agentapi_mcp.web.mounts import AuthenticationMode, Mount
from agentapi_mcp.web.oauth import OAuth
from agentapi_mcp.web.requests import HOLD, PRINCIPAL, JsonBody, head_of, json_of
from agentapi_mcp.web.stream_reauth import closed_on_expiry, grant_of

# The HTTP host has checked host and origin, and has read the body within its limit: the SDK need not.
_CHECKED = TransportSecuritySettings(enable_dns_rebinding_protection=False)
# Each with a slash, too: some clients add one, and some lose the body on a redirect.
_STREAMABLE = ("/mcp", "/mcp/")
_SSE, _MESSAGES = ("/sse", "/sse/"), ("/messages", MESSAGES)
_POST_ALONE = "Send a POST; in the revision 2026-07-28 there is nothing to GET or to DELETE."
_HELD_ELSEWHERE = (
    "This SSE session has ended or is held by another process; the legacy HTTP+SSE transport needs a balancer with "
    "session affinity. Use /mcp, which needs none."
)


def mcp_mount(server: EdgeServer, *, oauth: OAuth | None, body_bytes: int) -> Mount:
    """Mount the server; the mount can be served once.

    Streamable HTTP is at the path of the resource, too, for a proxy that passes it on as it is.
    """
    endpoints = _Endpoints(server, oauth, body_bytes)
    others = dict[str, ASGIApp].fromkeys(_SSE, _Users(endpoints.serve_sse))
    others |= dict.fromkeys(_MESSAGES, _Users(endpoints.serve_messages))
    resource = "/mcp" if oauth is None else urlsplit(oauth.resource).path.rstrip("/")
    streamable = (*_STREAMABLE, resource, f"{resource}/")
    apps = dict[str, ASGIApp].fromkeys(streamable, endpoints.streamable) | others
    app = ScopeStepUp(
        _Paths(apps),
        services_provider=server.parts.services_provider,
        oauth=oauth,
        action_of_tool=server.parts.tools.action,
    )
    return Mount(
        paths=tuple(apps),
        exact=True,
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
    """Leads each path to its application."""

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._apps[scope["path"]](scope, receive, send)


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


class _Endpoints:
    def __init__(self, server: EdgeServer, oauth: OAuth | None, body_bytes: int) -> None:
        self._server = server
        self._oauth = oauth
        self._open = set[anyio.CancelScope]()
        self._modern = StreamableHTTPSessionManager(server, stateless=True, security_settings=_CHECKED)
        self._modern_app = self._modern.asgi_app.app  # behind the limit of a body, which is read already
        logging.getLogger("mcp.server.sse").setLevel(logging.CRITICAL)  # it logs what clients send
        logging.getLogger("sse_starlette").setLevel(logging.INFO)  # at debug it logs responses
        self._sse = SseServerTransport(MESSAGES, _CHECKED, body_bytes)
        self._legacy: LegacyHttp | None = None
        self.streamable = Deliveries(self._serve_streamable)

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

    async def serve_sse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream of the SSE transport."""
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
            told = telling(send, scope, self._oauth)
            async with self._sse.connect_sse(wire.scope, receive, told) as (incoming, outgoing):
                with serving:  # not around the SDK's own tasks, which must close what they opened after this has ended
                    async with closed_on_expiry(grant_of(scope), serving.cancel):
                        await self._server.run(incoming, outgoing, self._server.create_initialization_options())
        finally:
            self._open.discard(serving)

    async def serve_messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a message of the SSE transport."""
        # The SDK takes a request whose id is none for a notification, and never answers it.
        with suppress(ValueError, RecursionError):  # the SDK says so, too
            said = json_of(scope)
            message = as_meant(said)
            fault = envelope_fault(message)
            if fault is not None:
                await AsgiConnection(scope, receive, send).refuse(400, INVALID_REQUEST, fault)
                return
            if message is not said:
                receive = JsonBody(json.dumps(message).encode()).replayed(receive)
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
