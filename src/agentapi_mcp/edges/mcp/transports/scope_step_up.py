"""Step-up authorization: an HTTP 403 with the missing scope, sent before the MCP server sees the request."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mcp.shared.inbound import MCP_METHOD_HEADER, MCP_NAME_HEADER, decode_header_value
from mcp_types import INVALID_REQUEST
from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.core.identity.principals import Action, Principal, refusal
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.mcp.errors import explain
from agentapi_mcp.edges.mcp.http_dispatch import AsgiConnection, is_modern
from agentapi_mcp.web.oauth import OAuth, challenge
from agentapi_mcp.web.requests import PRINCIPAL, head_of, json_of

# The action that each method needs. For tools/call the tool declares it; methods without an entry return no user data.
METHODS: Mapping[str, Action] = {
    "resources/list": Action.READ_SESSIONS,
    "resources/read": Action.READ_SESSIONS,
    "resources/subscribe": Action.READ_SESSIONS,
    "subscriptions/listen": Action.READ_SESSIONS,
    "completion/complete": Action.READ_SESSIONS,
    "tasks/get": Action.READ_SESSIONS,
    "tasks/update": Action.CHAT,
    "tasks/cancel": Action.CHAT,
}


class _Call(NamedTuple):
    action: Action
    target: AuditTarget


class ScopeStepUp:
    """Middleware that responds 403 with the missing scope (MCP authorization, 2026-07-28; RFC 6750, section 3.1).

    It is the HTTP form of a denial by the core, which decides. Clients of SSE get the core's answer instead: they
    expect it on their stream, whatever the status of the POST.
    """

    def __init__(
        self,
        app: ASGIApp,
        services_provider: ServicesProvider,
        oauth: OAuth | None,
        action_of_tool: Callable[[str], Action | None],
    ) -> None:
        self._app = app
        self._services_provider = services_provider
        self._oauth = oauth
        self._action_of_tool = action_of_tool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, whose body has been read already and is within the limit."""
        principal: Principal | None = scope.get(PRINCIPAL)
        if principal is None or principal.scopes is None or not _is_call(scope):
            await self._app(scope, receive, send)
            return
        call = self._call(*_called(scope))
        lacking = None if call is None else refusal(principal, call.action)
        if call is None or lacking is None or lacking.scope is None:
            await self._app(scope, receive, send)
            return
        await (await self._services_provider.services()).audit.denied(principal, lacking, call.target)
        challenge = _challenge(self._oauth, principal, lacking.scope)
        await AsgiConnection(scope, receive, send).refuse(403, INVALID_REQUEST, explain(lacking), [challenge])

    def _call(self, method: object, tool: object) -> _Call | None:
        kind, name = ("tool", tool) if method == "tools/call" else ("method", method)
        if not isinstance(name, str):
            return None
        action = self._action_of_tool(name) if kind == "tool" else METHODS.get(name)
        return None if action is None else _Call(action, AuditTarget(kind, name))


def _called(scope: Scope) -> tuple[object, object]:
    """Return a request's method and tool, without parsing a body that the SDK parses."""
    head = head_of(scope)
    if is_modern(head):
        # The SDK refuses a request whose headers and body differ (MCP 2026-07-28, transports).
        return head.text(MCP_METHOD_HEADER.encode()), decode_header_value(head.text(MCP_NAME_HEADER.encode()))
    try:
        request = as_object(json_of(scope))
    except (ValueError, RecursionError):
        return None, None  # the edge reports the error
    return request.get("method"), as_object(request.get("params")).get("name")


def _challenge(oauth: OAuth | None, principal: Principal, scope: str) -> tuple[bytes, bytes]:
    """Return the challenge; it names the token's own scopes too, since clients request only what it names."""
    scopes = " ".join(sorted({*map(str, principal.scopes or ()), scope}))
    value = challenge(oauth, [("error", "insufficient_scope")], scopes)
    return b"www-authenticate", value.encode()


def _is_call(scope: Scope) -> bool:
    return scope["method"] == "POST" and not scope["path"].startswith("/messages")
