"""Requests that a proxy forwards: whose word on the client's address is taken, and what gives an unknown proxy away."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from typing import Any, cast

from cachetools import TTLCache
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.health import Part
from agentapi_mcp.web.requests import Head, client_of, head_of

FORWARDED = "agentapi.forwarded"  # scope key: whether a proxy that is not trusted says that it forwards the request
PROXY_PART = "proxy"
# What proxies add (RFC 7239; RFC 9110, section 7.6.3; and the headers before them); browsers and clients send none.
_SENT_BY_PROXIES = frozenset(
    {
        *(b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip"),
        *(b"x-original-forwarded-for", b"x-original-host", b"x-envoy-external-address", b"x-azure-clientip"),
        *(b"cf-connecting-ip", b"cf-ray", b"fastly-client-ip", b"fly-client-ip", b"tailscale-user-login"),
    }
)
_SENT_BY_PROXIES_AT_THE_START = frozenset({b"x-forwarded", b"x_forwarded"})  # -For, -Host, -Proto, -Port and the like
_START = len(b"x-forwarded")
_MOST_TOLD = 20  # addresses: any client can send such a header
_SEEN_FOR = timedelta(minutes=10)
_log = logging.getLogger(__name__)


class UnknownProxies:
    """The addresses that forwarded requests lately and are not trusted, as a part of the server."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._told = set[str]()
        seconds = _SEEN_FOR.total_seconds()
        self._seen = TTLCache[str, None](_MOST_TOLD, seconds, timer=(clock or SystemClock()).monotonic)

    def note(self, address: str) -> None:
        """Note that a request came from there; the log is told once of each address."""
        if not _is_global(address):  # any client on the internet can send such a header
            self._seen[address] = None
        if address not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(address)
            _log.warning("proxy_not_trusted", extra={"client": address, "reason": "AGENTAPI_TRUSTED_PROXIES lacks it"})

    async def remark(self) -> str | None:
        """Say that there are some; their addresses are for the log, since all members see the health of the server."""
        if not self._seen:
            return None
        return "a proxy forwards requests that AGENTAPI_TRUSTED_PROXIES lacks; proxy_not_trusted in the log names it"

    def part(self) -> Part:
        """Return them as a part of the server, which stays ready whoever forwards to it."""
        return Part(PROXY_PART, "all that forwards requests to it", self.remark, remarked=HealthStatus.DEGRADED)


class Forwarding:
    """Middleware that takes the client's address from trusted proxies, and notices others that forward requests."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str], unknown: UnknownProxies) -> None:
        self._app = app
        headers = ProxyHeadersMiddleware(cast("Any", app), list(trusted))
        self._trusted = headers.trusted_hosts
        self._trusting = cast("ASGIApp", headers)
        self._unknown = unknown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif client_of(scope) in self._trusted:
            await self._trusting(scope, receive, send)
        else:
            scope[FORWARDED] = _is_from_a_proxy(head_of(scope))
            if scope[FORWARDED]:
                self._unknown.note(client_of(scope))
            await self._app(scope, receive, send)


def is_forwarded(scope: Scope) -> bool:
    """Return whether a request to an edge comes through a proxy, as far as that can be seen.

    nginx speaks HTTP/1.0 unless it is told otherwise, and sends no header of a proxy then; no MCP client does.
    """
    return bool(scope.get(FORWARDED)) or scope["http_version"] == "1.0"


def _is_from_a_proxy(head: Head) -> bool:
    if not _SENT_BY_PROXIES.isdisjoint(head.first):
        return True
    for name in head.first:  # noqa: SIM110  # a generator costs more than the rest of this
        if name[:_START] in _SENT_BY_PROXIES_AT_THE_START:
            return True
    return False


def _is_global(address: str) -> bool:
    with suppress(ValueError):
        return ip_address(address).is_global
    return False
