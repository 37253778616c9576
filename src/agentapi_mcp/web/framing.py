"""Checks of a request's framing (RFC 9112), which hold whatever the HTTP server lets in."""

from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.web.mounts import Refusal, json_refusal
from agentapi_mcp.web.requests import head_of

_VERSIONS = frozenset({"1.0", "1.1"})


class Framing:
    """Middleware that refuses a request whose end two parsers could see in different places, and closes.

    A proxy that reads another length than this server takes the rest of one request for the next (request smuggling).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        refusal = framing_refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await json_refusal(refusal)(scope, receive, send)


def framing_refusal(scope: Scope) -> Refusal | None:
    """Return why the framing of a request is refused, or None if it is sound."""
    version: str = scope["http_version"]
    head = head_of(scope)
    lengths, codings, hosts = head.all(b"content-length"), head.all(b"transfer-encoding"), head.all(b"host")
    if version not in _VERSIONS:
        return _refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.1.")
    if lengths and not (len(lengths) == 1 and _is_length(lengths[0])):
        return _refusal(HTTPStatus.BAD_REQUEST, "Send one Content-Length, of digits alone.")
    # RFC 9112, section 6.1: both together, or a coding in HTTP/1.0, are signs of smuggling.
    if codings and (lengths or version == "1.0"):
        return _refusal(HTTPStatus.BAD_REQUEST, "Send either Content-Length or, in HTTP/1.1, Transfer-Encoding.")
    if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
        return _refusal(HTTPStatus.NOT_IMPLEMENTED, "The only Transfer-Encoding that this server knows is chunked.")
    # RFC 9112, section 3.2. A probe of HTTP/1.0 may have none.
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return _refusal(HTTPStatus.BAD_REQUEST, "Send one Host.")
    return None


def _is_length(value: bytes) -> bool:
    return value.strip().isdigit()  # of bytes: ASCII digits alone, without a sign


def _refusal(status: HTTPStatus, message: str) -> Refusal:
    return Refusal(status=status, message=message, headers={"connection": "close"})
