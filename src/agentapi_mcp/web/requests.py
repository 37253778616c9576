"""What middleware notes in an ASGI scope: the head, the principal, the client's address, and a body that was read."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

from starlette.types import Message, Receive, Scope

from agentapi_mcp.base.json_values import load_json

HEAD = "agentapi.head"  # scope key of the headers, once they have been read
RECEIVED = "agentapi.received"  # scope key of when the request arrived, in monotonic seconds
ARRIVAL = "agentapi.arrival"  # scope key of the `Arrival` of a request, where the HTTP server tells of it
ADDED = "agentapi.added"  # scope key of the headers that are added to the response, as a list
BODY = "agentapi.body"  # scope key of a body of JSON
PRINCIPAL = "agentapi.principal"  # scope key of the authenticated principal; None is the operator
HOLD = "agentapi.hold"  # scope key of a function: while its context lasts, the sender has one more open request
_LONGEST_ADDRESS = 64  # a proxy may send any text
_NETWORK_BITS = 64  # of an IPv6 address; its client chooses the rest


class Head:
    """The headers of a request, read once for all checks, by their names in lower case.

    `first` has the first value of each name. What a second one could change is asked with `all`.
    """

    __slots__ = ("_lines", "first")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        lines = [(name.lower(), value) for name, value in headers]
        self.first = dict(lines)
        self._lines = None
        if len(self.first) < len(lines):  # hardly ever: some name comes twice
            self._lines = lines
            self.first = dict(reversed(lines))

    def all(self, name: bytes) -> list[bytes]:
        """Return all values of a name."""
        if self._lines is not None:
            return [value for each, value in self._lines if each == name]
        value = self.first.get(name)
        return [] if value is None else [value]

    def text(self, name: bytes) -> str:
        """Return the first value of a name as a text; empty if there is none."""
        value = self.first.get(name)
        return "" if value is None else value.decode("latin-1")


def head_of(scope: Scope) -> Head:
    """Return the headers of a request, which are read at the first time."""
    head: Head | None = scope.get(HEAD)
    if head is None:
        head = scope[HEAD] = Head(scope["headers"])
    return head


class Arrival(NamedTuple):
    """What the HTTP server knows of a request that has not begun.

    `hold` reads nothing more of it until its body is asked for, and returns the bytes that it takes up. `is_gone` tells
    whether its client has closed the connection, also while nothing is read from it.
    """

    hold: Callable[[], int]
    is_gone: Callable[[], bool]


class JsonBody:
    """A body that has been read whole: it is parsed at most once, and let go when the application receives it."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content
        self._parsed: tuple[object] | None = None

    def value(self) -> object:
        """Return what it holds.

        Raises:
            ValueError: it is not JSON, or exceeds a bound.
            RecursionError: it is nested too deeply.
        """
        if self._parsed is None:
            self._parsed = (load_json(self._content or b""),)
        return self._parsed[0]

    def replayed(self, receive: Receive) -> Receive:
        """Return a function that receives this body before all else."""

        async def replayed() -> Message:
            content, self._content = self._content, None
            return await receive() if content is None else _whole(content)

        return replayed


def _whole(content: bytes) -> Message:
    return {"type": "http.request", "body": content, "more_body": False}


def json_of(scope: Mapping[str, object]) -> object:
    """Return the parsed body of a request.

    Raises:
        ValueError: it is not JSON, exceeds a bound, or was not read.
        RecursionError: it is nested too deeply.
    """
    body = scope.get(BODY)
    if not isinstance(body, JsonBody):
        raise ValueError("no body of JSON was read")  # noqa: TRY004  # as for one that is no JSON
    return body.value()


def client_of(scope: Mapping[str, object]) -> str:
    """Return the client's address, or an empty string; behind a trusted proxy it is the forwarded one."""
    client: Any = scope.get("client")
    return "" if client is None else str(client[0])[:_LONGEST_ADDRESS]


def address_of(scope: Mapping[str, object]) -> str | None:
    """Return the client's address in printable form, for the audit log; None if there is none (stdio)."""
    if scope.get("client") is None:
        return None
    client = client_of(scope)
    if not client.isprintable():
        client = "".join(filter(str.isprintable, client))
    return client or "unknown"


def source_of(scope: Mapping[str, object]) -> str:
    """Return the key of the rate limit on tokens: an IPv4 address, or the /64 network of an IPv6 address."""
    return _source(client_of(scope))


@lru_cache(maxsize=1024)
def _source(client: str) -> str:
    try:
        address = ip_address(client.partition("%")[0])
    except ValueError:  # no address, or any text from a proxy
        return client
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> _NETWORK_BITS << _NETWORK_BITS)}/{_NETWORK_BITS}"


def received_at(scope: Mapping[str, object]) -> float:
    """Return when a request arrived, in monotonic seconds; now if it came over no HTTP."""
    received = scope.get(RECEIVED)
    return received if isinstance(received, float) else time.monotonic()
