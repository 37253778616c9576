"""Requests that a proxy forwards: whose word on the client's address is taken, and what gives an unknown proxy away."""

import logging
from collections.abc import Sequence
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from agentapi_mcp.web.requests import client_of

FORWARDED = "agentapi.forwarded"  # scope key: whether a proxy that is not trusted says that it forwards the request
# What proxies add (RFC 7239; RFC 9110, section 7.6.3; and the headers before them); browsers and clients send none.
_SENT_BY_PROXIES = frozenset(
    {
        *(b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"),
        *(b"cf-connecting-ip", b"true-client-ip"),
    }
)
_MOST_TOLD = 20  # addresses: any client can send such a header
_log = logging.getLogger(__name__)


class Forwarding:
    """Middleware that takes the client's address from trusted proxies, and notices others that forward requests."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        headers = ProxyHeadersMiddleware(cast("Any", app), list(trusted))
        self._trusted = headers.trusted_hosts
        self._trusting = cast("ASGIApp", headers)
        self._told = set[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif client_of(scope) in self._trusted:
            await self._trusting(scope, receive, send)
        else:
            forwarded = any(name in _SENT_BY_PROXIES for name, _ in scope["headers"])
            if forwarded:
                self._tell(client_of(scope))
            await self._app({**scope, FORWARDED: forwarded}, receive, send)

    def _tell(self, address: str) -> None:
        if address not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(address)
            _log.warning("proxy_not_trusted", extra={"client": address, "reason": "AGENTAPI_TRUSTED_PROXIES lacks it"})
