"""Who can reach a server over HTTP, and whether it then asks them for a token."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.core.access.models import SignInRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What decides who can reach a server, and which tokens it asks for.

    `address` is the IP address that it listens on; `hosts`, `origins` and `trusted_proxies` are the operator's.
    `resource_url` is its address as an OAuth protected resource, `has_token` whether it has a bearer token of its own,
    and `needs_token` whether it lets nobody in without a token. `insecure` accepts that others get in without one.
    """

    address: str
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    resource_url: str | None = None
    has_token: bool = False
    needs_token: bool = False
    insecure: bool = False

    def others(self) -> tuple[str, ...]:
        """Say in words who can reach the server besides this machine; empty if nobody can."""
        return tuple(words.format(value) for words, values in _REACHED_BY for value in values(self))

    def check(self, rules: SignInRules) -> None:
        """Refuse to let others in without a token, and a sign-in of which one half is missing.

        Raises:
            ConfigurationError: names what is missing, and the line that mends it.
        """
        self.check_sign_in(rules)
        self.check_tokens()

    def check_sign_in(self, rules: SignInRules) -> None:
        """Refuse a sign-in of which one half is missing.

        Raises:
            ConfigurationError: names what is missing, and the line that mends it.
        """
        if rules.issuers and self.resource_url is None:
            raise ConfigurationError(
                "The configuration file declares [[issuers]], but nobody could sign in without the address that their "
                "tokens are made for: `export AGENTAPI_RESOURCE_URL=https://HOST/mcp`, or take the issuers out."
            )
        if self.resource_url is not None and not rules.issuers:
            raise ConfigurationError(
                "AGENTAPI_RESOURCE_URL is set, but no issuer makes tokens for it: declare [[issuers]] in the "
                "configuration file, or `unset AGENTAPI_RESOURCE_URL`."
            )

    def check_tokens(self) -> None:
        """Refuse to let others in without a token.

        Raises:
            ConfigurationError: says who would get in, and the line that mends it.
        """
        others = self.others()
        if others and not (self.resource_url is not None or self.has_token or self.needs_token or self.insecure):
            raise ConfigurationError(
                f"The server would ask nobody for a token, and not only this machine can reach it: "
                f"{'; '.join(others)}. Give it a token (`export AGENTAPI_BEARER_TOKEN=$(openssl rand -hex 32)`), "
                "require personal tokens where each client has one (`export AGENTAPI_REQUIRE_TOKEN=true` or "
                "--require-token), or let people sign in (AGENTAPI_RESOURCE_URL and [[issuers]]); say --insecure if "
                "something else guards it."
            )


def is_local(name: str) -> bool:
    """Return whether a host name, an address or a web origin, with or without a port, is one of this machine's own."""
    with suppress(ValueError):
        return ip_address(name).is_loopback
    try:
        host = urlsplit(name if "://" in name else f"//{name}").hostname or ""
    except ValueError:  # no address between the brackets; whoever accepts the name refuses it
        return False
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3


def _foreign(names: Iterable[str]) -> list[str]:
    return [name for name in names if not is_local(name)]


_REACHED_BY: Sequence[tuple[str, Callable[[Reach], Iterable[str]]]] = (
    ("every machine that can connect to {}", lambda reach: _foreign([reach.address])),
    ("whoever calls it {} (--allowed-host, AGENTAPI_ALLOWED_HOSTS)", lambda reach: _foreign(reach.hosts)),
    ("pages of {} in a browser (--allowed-origin, AGENTAPI_ALLOWED_ORIGINS)", lambda reach: _foreign(reach.origins)),
    # A proxy on this machine as well: it is there to let others in.
    ("whoever the proxy at {} lets through (AGENTAPI_TRUSTED_PROXIES)", lambda reach: reach.trusted_proxies),
)
