"""What the checks keep in an ASGI scope, and where a request comes from."""

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import cast

PRINCIPAL = "agentapi.principal"  # where the scope holds who sends the request; None is the server's own user
_LONGEST_ADDRESS = 64  # what a proxy names is text
_NETWORK_BITS = 64  # of an IPv6 address; its client chooses the rest


def client_of(scope: Mapping[str, object]) -> str:
    """Return the client's address, empty where there is none; behind a trusted proxy the one that the proxy names."""
    client = cast("tuple[object, int] | None", scope.get("client"))
    return "" if client is None else str(client[0])[:_LONGEST_ADDRESS]


def address_of(scope: Mapping[str, object]) -> str | None:
    """Return the client's address as the audit log keeps it, printable; None where there is none (stdio)."""
    if scope.get("client") is None:
        return None
    return "".join(character for character in client_of(scope) if character.isprintable()) or "unknown"


def source_of(scope: Mapping[str, object]) -> str:
    """Return what attempts to sign in are counted by: an IPv4 address, or the network of an IPv6 one."""
    client = client_of(scope)
    try:
        address = ip_address(client.partition("%")[0])
    except ValueError:  # what a proxy named, or none
        return client
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> _NETWORK_BITS << _NETWORK_BITS)}/{_NETWORK_BITS}"
