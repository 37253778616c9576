"""Checks of Host and Origin, against DNS rebinding and cross-site requests."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.web.mounts import Mount, Refusal

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*))(:(\d{1,5}|\*))?")
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class AllowedNames:
    """Accepted values of the headers Host and Origin; one that ends with `:*` matches any port."""

    hosts: tuple[str, ...]
    origins: tuple[str, ...]

    def with_origins(self, origins: Sequence[str]) -> "AllowedNames":
        """Return a copy that also accepts these origins."""
        return replace(self, origins=(*self.origins, *origins))


class Hosts:
    """Middleware that rejects requests for a foreign host name, and those of other web sites' pages."""

    def __init__(self, app: ASGIApp, mount: Mount, allowed: AllowedNames) -> None:
        self._app = app
        self._mount = mount
        self._allowed = allowed.with_origins(mount.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await self._mount.render(refusal)(scope, receive, send)

    def _refusal(self, headers: Headers) -> Refusal | None:
        # DNS rebinding: a page's own name can be made to resolve to this server, but Host still has that name.
        if not _matches(headers.get("host", ""), self._allowed.hosts):
            message = "This Host is not one of this server's; its operator adds it with --allowed-host."
            return Refusal(status=HTTPStatus.MISDIRECTED_REQUEST, message=message)
        origin = headers.get("origin")
        if origin and not _matches(origin, self._allowed.origins):
            message = "This Origin is not one of this server's; its operator adds it with --allowed-origin."
            return Refusal(status=HTTPStatus.FORBIDDEN, message=message)
        if _is_embedded(headers):
            message = "A page of another web site asks for this without saying its origin; only a CORS request says it."
            return Refusal(status=HTTPStatus.FORBIDDEN, message=message)
        return None


def allowed_names(hosts: Sequence[str], origins: Sequence[str]) -> AllowedNames:
    """Accept the names of this machine, and those that the operator configures; `name:*` is any port.

    Raises:
        ConfigurationError: a name or an origin has a form that no request can carry.
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
    return AllowedNames(
        hosts=tuple(pattern for name in (*_LOCAL, *hosts) for pattern in _any_port(name.lower())),
        origins=(
            *(f"http://{pattern}" for name in _LOCAL for pattern in _any_port(name)),
            *(origin.rstrip("/").lower() for origin in origins),
        ),
    )


def origin_pattern(allowed: AllowedNames) -> str:
    """Return the allowed origins as one regular expression."""
    return "|".join(
        re.escape(origin[:-2]) + r":\d+" if origin.endswith(":*") else re.escape(origin) for origin in allowed.origins
    )


def _matches(name: str, allowed: Sequence[str]) -> bool:
    name = name.lower()  # host names have no case (RFC 9110, section 4.2.3)
    return name in allowed or any(_is_any_port(name, each[:-1]) for each in allowed if each.endswith(":*"))


def _is_any_port(name: str, start: str) -> bool:
    return name.startswith(start) and not name[len(start) :].strip("0123456789")


def _any_port(host: str) -> tuple[str, ...]:
    has_port = host.rpartition(":")[2].isdecimal() and not host.endswith("]") and host.count(":") == 1
    return (host,) if has_port or host.endswith(":*") else (host, f"{host}:*")


def _is_embedded(headers: Headers) -> bool:
    """Return whether a page of another site embeds the request, as it does an image."""
    # Browsers send no Origin with such requests; Fetch Metadata tells them apart (W3C Fetch Metadata, section 2).
    if "origin" in headers or headers.get("sec-fetch-site", "none") in {"none", "same-origin"}:
        return False
    # Following a link is allowed.
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) != ("navigate", "document")
