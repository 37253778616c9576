"""Which proxy leads to a provider: that of the environment, else that of the system."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.request import getproxies, proxy_bypass

_ANY, _NONE = "all_proxy", "no_proxy"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """The URL of a proxy, which may hold a password, and where it was set."""

    url: str = field(repr=False)
    source: str


def proxy_of(scheme: str, host: str, port: int | None, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy for requests to a host by this scheme; None if there is none."""
    given = _variables(os.environ if environ is None else environ)  # noqa: TID251  # of the machine, as all programs read them
    port = port or _PORTS[scheme]
    if not given.keys() - {_NONE}:
        return _proxy_of_the_system(scheme, host, port)
    name, url = next(filter(_is_set, (given.get(name, ("", "")) for name in (f"{scheme}_proxy", _ANY))), ("", ""))
    if not url or any(_spares(entry, host.lower(), port) for entry in _entries(given.get(_NONE, ("", ""))[1])):
        return None
    return Proxy(_with_scheme(url), name)


def _variables(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the variables by their names in lower case; of two, that in lower case holds, even if it is empty."""
    found: dict[str, tuple[str, str]] = {}
    for name, value in environ.items():
        lower = name.lower()
        if lower in {"http_proxy", "https_proxy", _ANY, _NONE} and (name == lower or lower not in found):
            found[lower] = (name, value.strip())
    return found


def _is_set(variable: tuple[str, str]) -> bool:
    return bool(variable[1])


def _proxy_of_the_system(scheme: str, host: str, port: int) -> Proxy | None:
    url = getproxies().get(scheme)  # of macOS and Windows; elsewhere there is none
    if not url or proxy_bypass(f"{host}:{port}"):
        return None
    return Proxy(_with_scheme(url), "the system's settings")


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _entries(written: str) -> Iterator[str]:
    for entry in written.replace(",", " ").lower().split():
        yield entry.rpartition("://")[2].rstrip("/") if "://" in entry else entry


def _spares(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY is `*`, a network, or the host or a domain above it, maybe with this port."""
    if entry == "*":
        return True
    if "/" in entry:
        return _is_in(host, entry)
    name, only = _split(entry)
    if only is not None and only != str(port):
        return False
    name = name.removeprefix("*").removeprefix(".").removesuffix(".")
    host = host.removesuffix(".")
    return bool(name) and (host == name or host.endswith(f".{name}") or _is_in(host, name))


def _split(entry: str) -> tuple[str, str | None]:
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":") or None
    name, mark, port = entry.rpartition(":")
    if not mark or ":" in name:  # an address of version 6
        return entry, None
    return name, port


def _is_in(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
