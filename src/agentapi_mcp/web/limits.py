"""Limits on a client: body size, time to send and to read, requests and streams open at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentapi_mcp.base.ids import UserId
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.web.mounts import Mount, Refusal
from agentapi_mcp.web.requests import PRINCIPAL, replay


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The largest body, the most open requests and streams, and how long a client may take to send or read."""

    body_bytes: int = 4 * 1024 * 1024
    open_requests: int = 1000
    body_time: timedelta = timedelta(seconds=30)
    write_time: timedelta = timedelta(seconds=60)


class ClientStuckError(Exception):
    """The client does not read its response."""


class OpenRequests:
    """Counts open requests and streams over all mounts; one user may hold half of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0
        self._held = Counter[UserId | None]()

    def refusal(self, user_id: UserId | None) -> Refusal | None:
        """Return why no further request may be opened now, or None if one may."""
        wait = {"retry-after": "1"}
        if user_id is not None and self._held[user_id] >= max(1, self._most // 2):
            message = "You have as many open requests and streams as one user may; close one first."
            return Refusal(status=HTTPStatus.TOO_MANY_REQUESTS, message=message, headers=wait)
        if self._open >= self._most:
            message = "This server has as many open requests as it may; try again in a moment."
            return Refusal(status=HTTPStatus.SERVICE_UNAVAILABLE, message=message, headers=wait)
        return None

    @asynccontextmanager
    async def counted(self, user_id: UserId | None) -> AsyncGenerator[None]:
        """Count one open request of a user while the context lasts."""
        self._open += 1
        self._held[user_id] += 1
        try:
            yield
        finally:
            self._open -= 1
            self._held[user_id] -= 1
            if not self._held[user_id]:
                del self._held[user_id]


class Limits:
    """Middleware that enforces the limits of a mount, and reads each body before the edge sees the request."""

    def __init__(self, app: ASGIApp, mount: Mount, limits: HttpLimits, open_requests: OpenRequests) -> None:
        self._app = app
        self._mount = mount
        self._limits = limits
        self._open = open_requests
        own = mount.max_body_bytes
        # A mount may lower the limit of the server, never raise it.
        self._most = limits.body_bytes if own is None else min(own, limits.body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        principal, timed = scope.get(PRINCIPAL), self._timed(send)
        user_id = principal.user_id if isinstance(principal, Principal) else None
        refusal = self._open.refusal(user_id)
        if refusal is not None:
            await self._mount.render(refusal)(scope, receive, timed)
            return
        async with self._open.counted(user_id):
            body = await self._body(scope, receive)
            if isinstance(body, Refusal):
                await self._mount.render(body)(scope, receive, timed)
            else:
                await self._app(scope, replay(body, receive), timed)

    async def _body(self, scope: Scope, receive: Receive) -> list[Message] | Refusal:
        """Read the whole body, or return why the request is rejected."""
        if scope["method"] != "POST":
            return []
        headers = Headers(scope=scope)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != self._mount.content_type:
            message = f"Send the body as Content-Type: {self._mount.content_type}."
            return _unread(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        declared = headers.get("content-length", "")
        body: bytes | None = None
        try:
            # Refused by the declared length, before any of the body is read.
            if not declared.isdecimal() or int(declared) <= self._most:
                async with asyncio.timeout(self._limits.body_time.total_seconds()):
                    body = await _read(receive, self._most)
        except TimeoutError:
            seconds = self._limits.body_time.total_seconds()
            return _unread(HTTPStatus.REQUEST_TIMEOUT, f"The body did not come within {seconds:g} s.")
        if body is None:
            message = f"The body is larger than {self._most:,} bytes, or incomplete."
            return _unread(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        return [{"type": "http.request", "body": body, "more_body": False}]

    def _timed(self, send: Send) -> Send:
        # Without a deadline, a client that reads nothing would hold its request open for good.
        async def timed(message: Message) -> None:
            try:
                async with asyncio.timeout(self._limits.write_time.total_seconds()):
                    await send(message)
            except TimeoutError:
                raise ClientStuckError from None

        return timed


def _unread(status: int, message: str) -> Refusal:
    # The rest of the body is not read, so the connection cannot be used again.
    return Refusal(status=status, message=message, headers={"connection": "close"})


async def _read(receive: Receive, most: int) -> bytes | None:
    """Read the whole body; None if it is too large, or the client disconnects before its end."""
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return bytes(body)
    return None
