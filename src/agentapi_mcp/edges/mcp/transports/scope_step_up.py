"""The step-up of a token that lacks a scope: told over HTTP before the protocol sees it, where clients look for it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mcp_types import INVALID_REQUEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentapi_mcp.base.json_values import as_object, load_json
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.core.identity.principals import Action, Principal, refusal
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.mcp.http_dispatch import AsgiConnection
from agentapi_mcp.presentation.errors import explain
from agentapi_mcp.web.oauth import OAuth, challenge
from agentapi_mcp.web.requests import PRINCIPAL

# What every method needs beside tools/call, whose tools say it themselves; what is not here tells nothing of anybody.
METHODS: Mapping[str, Action] = {
    "resources/list": Action.READ_SESSIONS,
    "resources/read": Action.READ_SESSIONS,
    "resources/subscribe": Action.READ_SESSIONS,
    "subscriptions/listen": Action.READ_SESSIONS,
    "completion/complete": Action.READ_SESSIONS,
}


class _Asked(NamedTuple):
    action: Action
    target: AuditTarget


class StepUp:
    """Answers 403 with the scope that lacks (MCP authorization, 2026-07-28; RFC 6750, section 3.1).

    It only says early, and in HTTP's words, what core would refuse; core decides. Clients of SSE get core's answer:
    they wait for one on their stream, whatever a POST says.
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
        """Serve one request, whose body has been read already and is short enough."""
        principal: Principal | None = scope.get(PRINCIPAL)
        if principal is None or principal.scopes is None or not _is_call(scope):
            await self._app(scope, receive, send)
            return
        body = await receive()
        asked = self._asked(body.get("body", b""))
        lacking = None if asked is None else refusal(principal, asked.action)
        if asked is None or lacking is None or lacking.scope is None:
            await self._app(scope, _again(body, receive), send)
            return
        await (await self._services_provider.services()).audit.denied(principal, lacking, asked.target)
        challenge = _challenge(self._oauth, principal, lacking.scope)
        await AsgiConnection(scope, receive, send).refuse(403, INVALID_REQUEST, explain(lacking), [challenge])

    def _asked(self, body: bytes) -> _Asked | None:
        try:
            message = load_json(body)
        except (ValueError, RecursionError):
            return None  # the protocol says what is wrong with it
        said = as_object(message)
        kind, name = "method", said.get("method")
        if name == "tools/call":
            kind, name = "tool", as_object(said.get("params")).get("name")
        if not isinstance(name, str):
            return None
        action = self._action_of_tool(name) if kind == "tool" else METHODS.get(name)
        return None if action is None else _Asked(action, AuditTarget(kind, name))


def _challenge(oauth: OAuth | None, principal: Principal, scope: str) -> tuple[bytes, bytes]:
    """Ask for what the token has and what it lacks: clients that step up ask for nothing else."""
    wanted = " ".join(sorted({*map(str, principal.scopes or ()), scope}))
    said = challenge(oauth, [("error", "insufficient_scope")], wanted)
    return b"www-authenticate", said.encode()


def _is_call(scope: Scope) -> bool:
    return scope["method"] == "POST" and not scope["path"].startswith("/messages")


def _again(first: Message, receive: Receive) -> Receive:
    waiting = [first]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
