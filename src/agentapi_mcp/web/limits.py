"""Limits on a client: size of a body and of what it holds, time to send and to read, its share of requests."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentapi_mcp.base.deadlines import done_within
from agentapi_mcp.base.errors import LimitExceededError, retry_after_seconds
from agentapi_mcp.base.json_bounds import BOUNDS, JsonBoundsError
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Holder, Resource, Shares, holder_of
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, Refusal
from agentapi_mcp.web.requests import BODY, HOLD, PRINCIPAL, Head, JsonBody, head_of, source_of


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The largest body, and how long a client may take to send or read."""

    # Four times the longest message: a client may escape its letters, each of up to three bytes, as \u0430.
    body_bytes: int = 4 * 1024 * 1024
    body_time: timedelta = timedelta(seconds=30)
    write_time: timedelta = timedelta(seconds=60)


_JSON = "application/json"
_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})  # of the last two, UTF-8 is a superset
_NOTHING: Mapping[str, str] = {}


class ClientStuckError(Exception):
    """The client does not read its response."""


class Limits:
    """Middleware that enforces the limits of a mount, and reads each body before the edge sees the request."""

    def __init__(self, app: ASGIApp, mount: Mount, limits: HttpLimits, shares: Shares) -> None:
        self._app = app
        self._mount = mount
        self._limits = limits
        self._shares = shares
        self._body_seconds = limits.body_time.total_seconds()
        self._write_seconds = limits.write_time.total_seconds()
        self._content_type = mount.content_type.encode()
        own = mount.max_body_bytes
        # A mount may lower the limit of the server, never raise it.
        self._most = limits.body_bytes if own is None else min(own, limits.body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        timed = self._timed(send)
        holder = self._holder(scope)
        scope[HOLD] = partial(self._shares.held, Resource.OPEN_REQUESTS, holder)
        held = self._shares.held(Resource.OPEN_REQUESTS, holder)
        refusal = self._over_share(holder, held)
        if refusal is not None:
            await self._mount.render(refusal)(scope, receive, timed)
            return
        try:
            body = await self._body(scope, receive, holder) if scope["method"] == "POST" else None
            match body:
                case Refusal():
                    await self._mount.render(body)(scope, receive, timed)
                case None:
                    await self._app(scope, receive, timed)
                case JsonBody():
                    scope[BODY] = body
                    await self._app(scope, body.replayed(receive), timed)
        finally:
            held.__exit__(None, None, None)

    def _over_share(self, holder: Holder, held: AbstractContextManager[None]) -> Refusal | None:
        """Count the request, and hold it open; return why that is more than its sender's share."""
        try:
            for resource in self._mount.uses:
                self._shares.use(resource, holder)
            held.__enter__()
        except LimitExceededError as exc:
            return _over(exc, {})
        return None

    def _holder(self, scope: Scope) -> Holder:
        principal = scope.get(PRINCIPAL)
        if isinstance(principal, Principal):
            return holder_of(principal)
        # Whoever opens a page has no account yet; all who call with the server's own token, or need none, are one user.
        return Holder(source_of(scope) if self._mount.authentication is AuthenticationMode.OPEN else None)

    async def _body(self, scope: Scope, receive: Receive, holder: Holder) -> JsonBody | Refusal:
        """Read the whole body, or return why the request is rejected."""
        head = head_of(scope)
        unsupported = self._unsupported(head)
        if unsupported is not None:
            return unsupported
        declared = head.first.get(b"content-length", b"")
        body: bytes | None = None
        try:
            # Refused by the declared length, before any of the body is read.
            if not declared.isdigit() or int(declared) <= self._most:
                body = await done_within(self._body_seconds, self._read(receive, holder))
        except TimeoutError:
            message = f"The body did not come within {self._body_seconds:g} s."
            return _unread(HTTPStatus.REQUEST_TIMEOUT, message)
        except LimitExceededError as exc:
            return _over(exc, {"connection": "close"})
        if body is None:
            message = f"The body is larger than {self._most:,} bytes, or incomplete."
            return _unread(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        return self._excess(body) or JsonBody(body)

    def _unsupported(self, head: Head) -> Refusal | None:
        """Return why a body of this type, charset or coding is not read (RFC 9110, section 15.5.16)."""
        sent = head.first.get(b"content-type", b"")
        if sent != self._content_type:
            kind, *parameters = sent.split(b";")
            if kind.strip().lower() != self._content_type:
                message = f"Send the body as Content-Type: {self._mount.content_type}."
                return _other_media(message, "accept", self._mount.content_type)
            if not _CHARSETS.issuperset(_charsets(parameters)):
                message = f"Send the body as Content-Type: {self._mount.content_type}, in UTF-8."
                return _other_media(message, "accept", f"{self._mount.content_type}; charset=utf-8")
        codings = b",".join(head.all(b"content-encoding")).lower().split(b",")
        if not {coding.strip() for coding in codings} <= {b"", b"identity"}:
            message = "Send the body as it is, without a Content-Encoding: this server unpacks none."
            return _other_media(message, "accept-encoding", "identity")
        return None

    async def _read(self, receive: Receive, holder: Holder) -> bytes | None:
        """Read the whole body; None if it is too large, or the client disconnects before its end.

        Raises:
            LimitExceededError: there is no room for the rest of it.
        """
        body = bytearray()
        arriving: list[AbstractContextManager[None]] = []
        try:
            while (message := await receive())["type"] == "http.request":
                part = message.get("body", b"")
                held = self._shares.held(Resource.BODY_BYTES, holder, len(part))
                held.__enter__()
                arriving.append(held)
                body += part
                if len(body) > self._most:
                    return None
                if not message.get("more_body", False):
                    return bytes(body)
        finally:
            for held in arriving:
                held.__exit__(None, None, None)
        return None

    def _excess(self, body: bytes) -> Refusal | None:
        if self._mount.content_type != _JSON:
            return None
        try:
            BOUNDS.check(body)
        except JsonBoundsError as exc:
            return Refusal(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message=f"The body {exc}.")
        return None

    def _timed(self, send: Send) -> Send:
        # Without a deadline, a client that reads nothing would hold its request open for good.
        within = self._write_seconds

        async def timed(message: Message) -> None:
            sending: Any = send(message)  # a coroutine, as those of all servers are
            try:
                await done_within(within, sending)
            except TimeoutError:
                raise ClientStuckError from None

        return timed


def _over(error: LimitExceededError, headers: Mapping[str, str]) -> Refusal:
    status = HTTPStatus.SERVICE_UNAVAILABLE if error.is_servers else HTTPStatus.TOO_MANY_REQUESTS
    headers = {"retry-after": str(retry_after_seconds(error)), **headers}
    return Refusal(status=status, message=str(error), error=error, headers=headers)


def _unread(status: int, message: str, headers: Mapping[str, str] = _NOTHING) -> Refusal:
    # The rest of the body is not read, so the connection cannot be used again.
    return Refusal(status=status, message=message, headers={"connection": "close", **headers})


def _other_media(message: str, header: str, offered: str) -> Refusal:
    return _unread(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message, {header: offered})


def _charsets(parameters: Iterable[bytes]) -> Iterator[bytes]:
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"charset":
            yield value.strip().strip(b'"').lower()
