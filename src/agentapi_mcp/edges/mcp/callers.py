"""Who is asking: the services, the principal, and the MCP client that is recorded once."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from cachetools import LRUCache
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext

from agentapi_mcp.base.errors import AgentApiError, PermissionDeniedError
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.core.catalogue.models import Preferences
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.services import Services, ServicesProvider
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.presentation.text import clean
from agentapi_mcp.web.requests import PRINCIPAL

Context = ServerRequestContext[Any, Any]

_log = logging.getLogger(__name__)
_MAX_NAME = 100
MAX_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request, and what they may use."""

    services: Services
    principal: Principal


def client_name(context: Context) -> str | None:
    """Return the name that the client gave itself."""
    params = context.session.client_params
    return None if params is None else params.client_info.name


def client_of(context: Context) -> str | None:
    """Return the name and version that the client gave itself, as one line."""
    params = context.session.client_params
    return None if params is None else f"{_brief(params.client_info.name)} {_brief(params.client_info.version)}"


def preferring_client(context: Context) -> str:
    """Return the name under which a user's choices in this client are kept."""
    return _brief(client_name(context) or "")


async def preferences_of(caller: Caller, context: Context) -> Preferences:
    """Return what the caller has chosen in this client."""
    return await caller.services.clients.preferences(caller.principal, preferring_client(context))


def connection_of(context: Context) -> Connection:
    """Return the client's connection: the SDK's one private seam that we use (tests/edges/mcp/test_seams.py)."""
    return cast("Any", context.session)._connection  # noqa: SLF001  # its state, end and identity are nowhere else


def request_key(context: Context, request_id: object) -> tuple[object, str]:
    """Name a request so that no other client's has the same name, over whatever transport it came."""
    connection = connection_of(context)
    return connection.session_id or id(connection.outbound), str(request_id)


class Callers:
    """Finds out who sends a request: whom its HTTP request was let in as, else the machine's user."""

    def __init__(self, services_provider: ServicesProvider, options: McpOptions) -> None:
        self._services_provider = services_provider
        self._toolsets = sorted(options.toolsets)
        self._recorded = LRUCache[tuple[Principal, str, str, str], bool](MAX_REMEMBERED)

    async def identify(self, context: Context) -> Caller:
        """Wait for the stores, and tell who asks.

        Raises:
            StoreUnavailableError: the stores do not come up; the message says why.
        """
        caller = await self.of_http(getattr(context.request, "scope", {}))
        await caller.services.audit.signed_in(caller.principal)
        await self._record(context, caller)
        return caller

    async def of_http(self, scope: Mapping[str, object]) -> Caller:
        """Tell who sends an HTTP request, which was let through; what no HTTP request brings is the machine's user's.

        Raises:
            StoreUnavailableError: the stores do not come up; the message says why.
        """
        services = await self._services_provider.services()
        if scope and PRINCIPAL not in scope:
            raise RuntimeError("an HTTP request came past the authentication")
        principal = scope.get(PRINCIPAL)
        return Caller(services, principal if isinstance(principal, Principal) else services.principal)

    async def denied(self, context: Context, error: PermissionDeniedError, target: AuditTarget) -> None:
        """Record that the sender of a request may not do what it asked for."""
        caller = await self.of_http(getattr(context.request, "scope", {}))
        await caller.services.audit.denied(caller.principal, error, target)

    async def _record(self, context: Context, caller: Caller) -> None:
        """Keep which client is here, once; a failure is logged and breaks nothing."""
        params, name = context.session.client_params, preferring_client(context)
        version = _brief(params.client_info.version) if params else ""
        client = (caller.principal, name, version, context.protocol_version)
        if self._recorded.get(client):  # unlike `in`, this counts as a use
            return
        self._recorded[client] = True
        state: dict[str, object] = {"client": name, "version": version, "protocol": context.protocol_version}
        state["toolsets"] = self._toolsets
        try:
            await caller.services.clients.record(caller.principal, name, state)
        except AgentApiError as exc:
            _log.warning("mcp_client_not_recorded", extra={"client": name, "code": exc.code})
        except Exception:  # noqa: BLE001  # a client that is not recorded is no reason to refuse its call
            _log.exception("mcp_client_not_recorded", extra={"client": name})


def _brief(text: str) -> str:
    return "".join(character for character in clean(text) if character.isprintable())[:_MAX_NAME] or "unknown"
