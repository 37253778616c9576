"""The caller of a request: the services, the principal, and a record of the MCP client."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from cachetools import LRUCache
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext

from agentapi_mcp.base.errors import AgentApiError, PermissionDeniedError
from agentapi_mcp.base.store_waits import store_answers_within
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.core.catalogue.models import Preferences
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource, holder_of
from agentapi_mcp.core.services import Services, ServicesProvider
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.presentation.text import clean
from agentapi_mcp.web.requests import PRINCIPAL

Context = ServerRequestContext[Any, Any]

_log = logging.getLogger(__name__)
_MAX_NAME = 100
# No call waits for long for what only lists of clients show.
_RECORD_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request, and the services that it uses."""

    services: Services
    principal: Principal


def client_name(context: Context) -> str | None:
    """Return the name from the client's `clientInfo`."""
    params = context.session.client_params
    return None if params is None else params.client_info.name


def client_of(context: Context) -> str | None:
    """Return the name and version from the client's `clientInfo`, as one line."""
    params = context.session.client_params
    return None if params is None else f"{_brief(params.client_info.name)} {_brief(params.client_info.version)}"


def preferring_client(context: Context) -> str:
    """Return the name that a user's preferences in this client are stored under."""
    return _brief(client_name(context) or "")


async def preferences_of(caller: Caller, context: Context) -> Preferences:
    """Return the caller's preferences in this client."""
    return await caller.services.clients.preferences(caller.principal, preferring_client(context))


def connection_of(context: Context) -> Connection:
    """Return the client's connection, the SDK's one private attribute that we use (tests/edges/mcp/test_seams.py)."""
    return cast("Any", context.session)._connection  # noqa: SLF001  # no public API has its state, end and identity


def request_key(context: Context, request_id: object) -> tuple[object, str]:
    """Return a key for the request that is unique over all clients and transports."""
    # Request ids are unique only within one client.
    connection = connection_of(context)
    return connection.session_id or id(connection.outbound), str(request_id)


class Callers:
    """Finds the caller of a request: the authenticated principal over HTTP, otherwise the local user."""

    def __init__(self, services_provider: ServicesProvider, options: McpOptions) -> None:
        self._services_provider = services_provider
        self._toolsets = sorted(options.toolsets)
        self._recorded = LRUCache[tuple[int, int, str, str, str], bool](options.max_remembered_clients)

    async def identify(self, context: Context) -> Caller:
        """Wait for the services, and return the caller.

        Raises:
            LimitExceededError: the caller sends more requests a minute than their share.
            StoreUnavailableError: the stores are down; the message says why.
        """
        scope = getattr(context.request, "scope", {})
        caller = await self.of_http(scope)
        if not scope:  # over HTTP, the host has counted it
            caller.services.shares.use(Resource.REQUESTS, holder_of(caller.principal))
        await caller.services.audit.signed_in(caller.principal)
        await self._record(context, caller)
        return caller

    async def of_http(self, scope: Mapping[str, object]) -> Caller:
        """Return the caller of an HTTP request by its scope; an empty scope (stdio) means the local user.

        Raises:
            StoreUnavailableError: the stores are down; the message says why.
        """
        services = await self._services_provider.services()
        # Without this check, a route that bypasses the middleware would act as the operator.
        if scope and PRINCIPAL not in scope:
            raise RuntimeError("an HTTP request came past the authentication")
        principal = scope.get(PRINCIPAL)
        return Caller(services, principal if isinstance(principal, Principal) else services.principal)

    async def denied(self, context: Context, error: PermissionDeniedError, target: AuditTarget) -> None:
        """Record in the audit log that a request was denied."""
        caller = await self.of_http(getattr(context.request, "scope", {}))
        await caller.services.audit.denied(caller.principal, error, target)

    async def _record(self, context: Context, caller: Caller) -> None:
        """Record the client once; a failure is logged and does not fail the request."""
        params, name = context.session.client_params, preferring_client(context)
        version = _brief(params.client_info.version) if params else ""
        # By numbers: a record's hash is worked out anew each time.
        client = (caller.principal.user_id.int, caller.principal.org_id.int, name, version, context.protocol_version)
        if self._recorded.get(client):  # unlike `in`, this marks the key as recently used
            return
        # Before the write: concurrent requests must not all write, and a failed write is not worth repeating.
        self._recorded[client] = True
        state: dict[str, object] = {"client": name, "version": version, "protocol": context.protocol_version}
        state["toolsets"] = self._toolsets
        try:
            async with store_answers_within(_RECORD_SECONDS):
                await caller.services.clients.record(caller.principal, name, state)
        except AgentApiError as exc:
            _log.warning("mcp_client_not_recorded", extra={"client": name, "code": exc.code})
        except Exception:  # noqa: BLE001  # a client that is not recorded is no reason to refuse its call
            _log.exception("mcp_client_not_recorded", extra={"client": name})


def _brief(text: str) -> str:
    if text.isprintable():
        return text[:_MAX_NAME] or "unknown"
    return "".join(character for character in clean(text) if character.isprintable())[:_MAX_NAME] or "unknown"
