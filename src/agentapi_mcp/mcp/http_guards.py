"""What every HTTP request passes before the protocol sees it: ids, host and origin, limits."""

import asyncio
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentapi_mcp.core.contexts import request_id
from agentapi_mcp.core.errors import ConfigurationError
from agentapi_mcp.core.identity import Principal, UserId
from agentapi_mcp.mcp.boundary import log_unexpected
from agentapi_mcp.mcp.callers import PRINCIPAL
from agentapi_mcp.mcp.errors import internal_message
from agentapi_mcp.mcp.exchanges import Wire
from agentapi_mcp.mcp.traces import traced

# They say nothing secret, and what probes them knows neither a token nor our name.
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*))(:(\d{1,5}|\*))?")
_OURS = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_ADDRESS = 64  # a proxy's word is text
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The most bytes of a body, requests and streams open at once, and how long a client may take to send or read."""

    body_bytes: int = 4 * 1024 * 1024
    open_requests: int = 1000
    body_time: timedelta = timedelta(seconds=30)
    write_time: timedelta = timedelta(seconds=60)


class _StuckError(Exception):
    """The client does not read what it asked for."""


class RequestIds:
    """Gives every request an id and a trace, in the answer and in every line of the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; the id that a proxy gave it is kept."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        ours = given if _OURS.fullmatch(given) else uuid4().hex[:12]
        begun, status = time.monotonic(), 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = ours
            await send(message)

        token = request_id.set(ours)
        with traced(headers):
            try:
                await self._guarded(scope, receive, stamped, lambda: status != 0)
            finally:
                took = round((time.monotonic() - begun) * 1000)
                said = {"method": scope["method"], "path": scope["path"], "status": status, "milliseconds": took}
                said["client"] = client_of(scope)
                _log.log(logging.DEBUG if scope["path"] in OPEN_PATHS else logging.INFO, "http_request", extra=said)
                request_id.reset(token)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, begun: Callable[[], bool]) -> None:
        try:
            try:
                await self._app(scope, receive, send)
            except* _StuckError:
                _log.info("client_does_not_read")
        except Exception as exc:  # noqa: BLE001  # the outermost point of a request
            unexpected = log_unexpected("http_failed", exc, what=scope["path"])
            if not begun():
                await Wire(scope, receive, send).refuse(500, INTERNAL_ERROR, internal_message(unexpected))


class Hosts:
    """Refuses requests that another web site makes its visitors' browsers send (DNS rebinding, foreign origins)."""

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings) -> None:
        self._app = app
        self._check = TransportSecurityMiddleware(security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        refused = await self._check.validate_request(Request(scope))
        if refused is None and _is_embedded(Headers(scope=scope)):
            message = "A page of another web site asks for this without saying its origin; only a CORS request says it."
            await Wire(scope, receive, send).refuse(403, INVALID_REQUEST, message)
            return
        if refused is None:
            await self._app(scope, receive, send)
            return
        names, setting = ("Host", "allowed-host") if refused.status_code == 421 else ("Origin", "allowed-origin")  # noqa: PLR2004  # 421 Misdirected Request
        message = f"This {names} is not one of this server's; its operator adds it with --{setting}."
        await Wire(scope, receive, send).refuse(refused.status_code, INVALID_REQUEST, message)


class Limits:
    """Bounds what a client can hold: bytes, time to send or to read, and of the requests at once half for one user."""

    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        self._app = app
        self._limits = limits
        self._open = 0
        self._held = Counter[UserId | None]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        wire, principal = Wire(scope, receive, self._timed(send)), scope.get(PRINCIPAL)
        holder = principal.user_id if isinstance(principal, Principal) else None
        if holder is not None and self._held[holder] >= max(1, self._limits.open_requests // 2):
            message = "You have as many open requests and streams as one user may; close one first."
            await wire.refuse(429, INTERNAL_ERROR, message, [(b"retry-after", b"1")])
            return
        if self._open >= self._limits.open_requests:
            message = "This server has as many open requests as it may; try again in a moment."
            await wire.refuse(503, INTERNAL_ERROR, message, [(b"retry-after", b"1")])
            return
        self._open += 1
        self._held[holder] += 1
        try:
            body = await self._body(wire)
            if body is not None:
                await self._app(scope, _replay(body, receive), wire.send)
        finally:
            self._open -= 1
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

    async def _body(self, wire: Wire) -> list[Message] | None:
        """Read the whole body, or refuse it; None when the request is dealt with."""
        if wire.scope["method"] != "POST":
            return []
        headers, most = Headers(scope=wire.scope), self._limits.body_bytes
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            await self._refuse(wire, 415, "Send the body as Content-Type: application/json.")
            return None
        declared = headers.get("content-length", "")
        body: bytes | None = None
        try:
            if not declared.isdecimal() or int(declared) <= most:
                async with asyncio.timeout(self._limits.body_time.total_seconds()):
                    body = await _read(wire, most)
        except TimeoutError:
            seconds = self._limits.body_time.total_seconds()
            await self._refuse(wire, 408, f"The body did not come within {seconds:g} s.")
            return None
        if body is None:
            await self._refuse(wire, 413, f"The body is larger than {most:,} bytes, or incomplete.")
            return None
        return [{"type": "http.request", "body": body, "more_body": False}]

    async def _refuse(self, wire: Wire, status: int, message: str) -> None:
        # The rest of the body is not read, so the connection cannot be used again.
        await wire.refuse(status, INVALID_REQUEST, message, [(b"connection", b"close")])

    def _timed(self, send: Send) -> Send:
        async def timed(message: Message) -> None:
            try:
                async with asyncio.timeout(self._limits.write_time.total_seconds()):
                    await send(message)
            except TimeoutError:
                raise _StuckError from None

        return timed


def _is_embedded(headers: Headers) -> bool:
    """Tell whether another site's page makes its visitor's browser ask, as for an image, which brings no Origin."""
    if "origin" in headers or headers.get("sec-fetch-site", "none") in {"none", "same-origin"}:
        return False
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) != ("navigate", "document")  # a link


def client_of(scope: Scope) -> str:
    """Return the address of whoever asks; behind a trusted proxy it is the one that the proxy names."""
    client = scope.get("client")
    return "" if client is None else str(client[0])[:_LONGEST_ADDRESS]


def security_settings(hosts: Sequence[str], origins: Sequence[str]) -> TransportSecuritySettings:
    """Allow the names of this machine to itself, and those that the operator gives; `name:*` is any port.

    Raises:
        ConfigurationError: a name or an origin is of a form that no request ever brings.
    """
    for host in hosts:
        if not _HOST.fullmatch(host):
            message = (
                f"{host!r} is no allowed host: it is a name alone, as in agents.example.com or agents.example.com:8443"
            )
            raise ConfigurationError(f"{message}, without a scheme or a path; there is no wildcard but a port of *.")
    for origin in origins:
        scheme, _, name = origin.rstrip("/").partition("://")
        if scheme not in {"http", "https"} or not _HOST.fullmatch(name):
            message = f"{origin!r} is no allowed origin: it is a scheme and a name, as in https://agents.example.com"
            raise ConfigurationError(f"{message}, without a path; there is no wildcard but a port of *.")
    local = ("localhost", "127.0.0.1", "[::1]")
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[pattern for name in (*local, *hosts) for pattern in _any_port(name)],
        allowed_origins=[
            *(f"http://{pattern}" for name in local for pattern in _any_port(name)),
            *(origin.rstrip("/") for origin in origins),
        ],
    )


def _any_port(host: str) -> tuple[str, ...]:
    has_port = host.rpartition(":")[2].isdecimal() and not host.endswith("]") and host.count(":") == 1
    return (host,) if has_port or host.endswith(":*") else (host, f"{host}:*")


async def _read(wire: Wire, most: int) -> bytes | None:
    """Read all of the body; None when it is too large, or its client goes away in the middle."""
    taken = bytearray()
    while (message := await wire.receive())["type"] == "http.request":
        taken += message.get("body", b"")
        if len(taken) > most:
            return None
        if not message.get("more_body", False):
            return bytes(taken)
    return None


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = deque(messages)

    async def replayed() -> Message:
        return waiting.popleft() if waiting else await receive()

    return replayed
