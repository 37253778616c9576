"""Hosts as in the header Host (RFC 9110, section 7.2), and web origins (RFC 6454), to be compared."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from typing_extensions import override

DEFAULT_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::([0-9]*))?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")  # RFC 3986, section 3.1
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Authority:
    """A host, in lower case, and the port that was named, if any.

    An IPv6 address is in its short form and in brackets. `name.` is another host than `name`, as browsers have it.
    """

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Authority | None":
        """Return the host and port that a text names; None if it names none, or anything else beside them."""
        found = _AUTHORITY.fullmatch(text)
        if found is None:
            return None
        host = _host(found[1])
        port = int(found[2]) if found[2] and len(found[2]) <= len(str(_LARGEST_PORT)) else None
        if host is None or (found[2] and (port is None or port > _LARGEST_PORT)):
            return None
        return cls(host, port)


@dataclass(frozen=True, slots=True)
class Origin:
    """A web origin; its port is None only where the scheme has no usual one, as those of programs' pages."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Origin | None":
        """Return the origin that a text serializes; None for `null`, and for a URL with anything else in it."""
        scheme, _, rest = text.partition("://")
        authority = Authority.parse(rest)
        if authority is None or not _SCHEME.fullmatch(scheme):
            return None
        usual = DEFAULT_PORTS.get(scheme.lower())
        return cls(scheme.lower(), authority.host, usual if authority.port is None else authority.port)

    @override
    def __str__(self) -> str:
        """Serialize it as browsers do (RFC 6454, section 6.2): the usual port is left out."""
        return f"{self.scheme}://{self.host}{'' if self.port == DEFAULT_PORTS.get(self.scheme) else f':{self.port}'}"


def _host(text: str) -> str | None:
    if not text.startswith("["):
        return text.lower()
    try:
        return f"[{IPv6Address(text[1:-1]).compressed}]"
    except AddressValueError:
        return None
