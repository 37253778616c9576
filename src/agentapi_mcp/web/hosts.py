"""Checks of Host and Origin, against DNS rebinding and cross-site requests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.origins import DEFAULT_PORTS, Authority, Origin
from agentapi_mcp.web.mounts import Mount, Refusal
from agentapi_mcp.web.requests import ADDED, Head, head_of

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_MOST_REMEMBERED = 100  # hosts as clients write them, with ports
_VARIES = (b"vary", b"Origin")


@dataclass(frozen=True, slots=True)
class _AnyPort:
    """A host whose ports are all allowed; of an origin with a scheme."""

    host: str
    scheme: str = ""


@dataclass(frozen=True, slots=True)
class AllowedNames:
    """Accepted values of the headers Host and Origin."""

    hosts: frozenset[Authority | _AnyPort]
    origins: frozenset[Origin | _AnyPort]

    def has_host(self, host: Authority) -> bool:
        """Return whether a request may be for this host."""
        if host in self.hosts or _AnyPort(host.host) in self.hosts:
            return True
        # Without a port it is the scheme's, which a proxy that speaks TLS does not tell.
        usual = DEFAULT_PORTS.values() if host.port is None else ()
        return any(Authority(host.host, port) in self.hosts for port in usual)

    def has_origin(self, text: str) -> bool:
        """Return whether a page of this origin may send requests."""
        origin = Origin.parse(text)
        return origin is not None and (origin in self.origins or _AnyPort(origin.host, origin.scheme) in self.origins)

    def with_origins(self, origins: Sequence[str]) -> "AllowedNames":
        """Return a copy that also accepts these origins."""
        return replace(self, origins=self.origins | {_origin(origin) for origin in origins})


class Cors(CORSMiddleware):
    """CORS for the pages of the allowed origins."""

    def __init__(self, app: ASGIApp, mount: Mount, allowed: AllowedNames) -> None:
        super().__init__(
            app,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=[*mount.exposed_headers, "X-Request-Id", "WWW-Authenticate", "Retry-After"],
        )
        self._allowed = allowed

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if b"origin" in head_of(scope).first:
            await super().__call__(scope, receive, send)
        else:  # no page reads this response, and caches must not give it to one
            scope[ADDED].append(_VARIES)
            await self.app(scope, receive, send)

    @override
    def is_allowed_origin(self, origin: str) -> bool:
        """Return whether a page of this origin may read the response."""
        return self._allowed.has_origin(origin)


class Hosts:
    """Middleware that rejects requests for a foreign host name, and those of other web sites' pages."""

    def __init__(self, app: ASGIApp, mount: Mount, allowed: AllowedNames) -> None:
        self._app = app
        self._mount = mount
        self._allowed = allowed.with_origins(mount.origins)
        self._accepted = set[bytes]()  # the same few hosts come again and again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = self._refusal(head_of(scope))
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await self._mount.render(refusal)(scope, receive, send)

    def _refusal(self, head: Head) -> Refusal | None:
        return self._wrong_host(head.first.get(b"host", b"")) or self._wrong_page(head)

    def _wrong_host(self, sent: bytes) -> Refusal | None:
        if sent in self._accepted:
            return None
        host = Authority.parse(sent.decode("latin-1"))
        if host is None:  # RFC 9112, section 3.2
            message = "The header Host is no host with a port." if sent else "Send the header Host."
            return Refusal(status=HTTPStatus.BAD_REQUEST, message=message)
        # DNS rebinding: a page's own name can be made to resolve to this server, but Host still has that name.
        if not self._allowed.has_host(host):
            message = "This Host is not one of this server's; its operator adds it with --allowed-host."
            return Refusal(status=HTTPStatus.MISDIRECTED_REQUEST, message=message)
        if len(self._accepted) < _MOST_REMEMBERED:
            self._accepted.add(sent)
        return None

    def _wrong_page(self, head: Head) -> Refusal | None:
        origins = head.all(b"origin")
        if len(origins) > 1 or (origins and not self._allowed.has_origin(head.text(b"origin"))):
            message = "This Origin is not one of this server's; its operator adds it with --allowed-origin."
            return Refusal(status=HTTPStatus.FORBIDDEN, message=message)
        if _is_embedded(head):
            message = "A page of another web site asks for this without saying its origin; only a CORS request says it."
            return Refusal(status=HTTPStatus.FORBIDDEN, message=message)
        return None


def allowed_names(hosts: Sequence[str], origins: Sequence[str]) -> AllowedNames:
    """Accept the names of this machine, and those that the operator configures.

    A host without a port, and `name:*`, stand for all ports of it.

    Raises:
        ConfigurationError: a name or an origin has a form that no request can carry.
    """
    return AllowedNames(
        hosts=frozenset(map(_host, (*_LOCAL, *hosts))),
        origins=frozenset(
            (*(_AnyPort(host, "http") for host in _LOCAL), *(_origin(origin.rstrip("/")) for origin in origins))
        ),
    )


def _host(text: str) -> Authority | _AnyPort:
    bare = text.removesuffix(":*")
    host = Authority.parse(bare)
    if host is None or (bare != text and host.port is not None):
        message = (
            f"{text!r} is no allowed host: it is a name alone, as in agents.example.com or agents.example.com:8443"
        )
        raise ConfigurationError(f"{message}, without a scheme or a path; there is no wildcard but a port of *.")
    return _AnyPort(host.host) if host.port is None else host


def _origin(text: str) -> Origin | _AnyPort:
    bare = text.removesuffix(":*")
    origin, authority = Origin.parse(bare), Authority.parse(bare.partition("://")[2])
    if origin is None or authority is None or (bare != text and authority.port is not None):
        message = f"{text!r} is no allowed origin: it is a scheme and a name, as in https://agents.example.com"
        raise ConfigurationError(f"{message}, without a path; there is no wildcard but a port of *.")
    return origin if bare == text else _AnyPort(origin.host, origin.scheme)


def _is_embedded(head: Head) -> bool:
    """Return whether a page of another site embeds the request, as it does an image."""
    # Browsers send no Origin with such requests; Fetch Metadata tells them apart (W3C Fetch Metadata, section 2).
    if b"origin" in head.first or head.first.get(b"sec-fetch-site", b"none") in {b"none", b"same-origin"}:
        return False
    # Following a link is allowed.
    return (head.text(b"sec-fetch-mode"), head.text(b"sec-fetch-dest")) != ("navigate", "document")
