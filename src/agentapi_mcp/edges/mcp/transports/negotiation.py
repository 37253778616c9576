"""What a client of Streamable HTTP accepts, and which revision of the protocol it speaks, before any era answers it."""

from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from mcp_types import HEADER_MISMATCH, UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, KNOWN_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.types import Message, Scope, Send

from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.edges.mcp.http_dispatch import EVENT_STREAM, Headers
from agentapi_mcp.presentation.text import clean
from agentapi_mcp.web.requests import Head, head_of, json_of

JSON, EVENTS = "application/json", "text/event-stream"
OFFERED = f"This is answered as {JSON} or as {EVENTS}: send Accept with one of them or both."
ONLY_EVENTS = f"This is answered as {EVENTS} alone: send Accept: {EVENTS}."
_BOTH = f"{JSON}, {EVENTS}".encode()
_JSON_TYPE: Headers = [(b"content-type", JSON.encode())]
_REPLACED = frozenset({b"content-type", b"content-length", b"cache-control", b"x-accel-buffering"})
_LISTEN = "subscriptions/listen"
_VERSION = b"mcp-protocol-version"
_VERSIONS = frozenset(version.encode() for version in KNOWN_PROTOCOL_VERSIONS)
_LONGEST_QUOTE = 40


class Accepted(NamedTuple):
    """Which of the two media types a client takes."""

    json: bool
    events: bool


def accepted(head: Head) -> Accepted:
    """Return what a request accepts (RFC 9110, section 12.5.1); no Accept means anything."""
    values = head.all(b"accept")
    return _accepted(values[0] if len(values) == 1 else b",".join(values))


@lru_cache(maxsize=64)
def _accepted(value: bytes) -> Accepted:
    weights = dict[str, float]()
    for element in value.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        if name:
            weights[name] = max(_weight(parameters), weights.get(name, 0))
    return Accepted(_takes(weights, JSON), _takes(weights, EVENTS))


def _takes(weights: dict[str, float], kind: str) -> bool:
    """Whether a media type is accepted: of the ranges that hold it, the narrowest says so."""
    if not weights:
        return True
    ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    return next((weights[each] for each in ranges if each in weights), 0) > 0


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:  # it is named, so it is meant
                return 1
    return 1


def needs_stream(scope: Scope) -> bool:
    """Return whether a body of JSON cannot answer this request of the 2026 era."""
    return as_object(_body(scope)).get("method") == _LISTEN


def version_refusal(scope: Scope) -> dict[str, object] | None:
    """Return the JSON-RPC error for a revision that is not served, or for two of them; None if there is no fault.

    `initialize` negotiates the revision, whatever its header says.
    """
    sent = set(head_of(scope).all(_VERSION))
    if len(sent) <= 1 and sent <= _VERSIONS:
        return None
    body = as_object(_body(scope))
    if scope["method"] == "POST" and body.get("method") == "initialize":
        return None
    if len(sent) > 1:
        fault: dict[str, object] = {
            "code": HEADER_MISMATCH,
            "message": "MCP-Protocol-Version came with two values: send one.",
        }
    else:
        requested = clean(sent.pop().decode("latin-1"))[:_LONGEST_QUOTE]
        by_request, by_session = (", ".join(each) for each in (MODERN_PROTOCOL_VERSIONS, HANDSHAKE_PROTOCOL_VERSIONS))
        fault = {
            "code": UNSUPPORTED_PROTOCOL_VERSION,
            "message": f"There is no MCP revision {requested!r} here: send {by_request}, or after initialize the one "
            f"that it answered with, of {by_session}.",
            # As `server/discover` says: what a request may name without initialize.
            "data": {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": requested},
        }
    key = body.get("id")
    return {"jsonrpc": "2.0", "id": key if isinstance(key, str | int) else None, "error": fault}


def _body(scope: Scope) -> object:
    try:
        return json_of(scope)
    except (ValueError, RecursionError):
        return None


def with_both(scope: Scope) -> Scope:
    """Return the scope of a request that says that it accepts both media types; the SDK asks each client to."""
    if head_of(scope).first.get(b"accept") == _BOTH:
        return scope
    kept = [header for header in scope["headers"] if header[0].lower() != b"accept"]
    return {**scope, "headers": [*kept, (b"accept", _BOTH)]}


def shaped(send: Send, takes: Accepted) -> Send:
    """Return a function that sends an answer in the one media type that its client takes."""
    if takes.json and takes.events:
        return send
    shape = _JsonOnly(send) if takes.json else _EventsOnly(send)
    return shape.send


class _EventsOnly:
    """Sends a body of JSON as a stream with one event; an error keeps its status, and is JSON."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_changed = False

    async def send(self, message: Message) -> None:
        """Send a message of ASGI."""
        if message["type"] == "http.response.start":
            self._is_changed = message["status"] == HTTPStatus.OK and _is_of(message, JSON)
            message = _as(message, EVENT_STREAM) if self._is_changed else message
        elif self._is_changed:
            message = {**message, "body": b"event: message\r\ndata: " + message["body"] + b"\r\n\r\n"}
        await self._send(message)


class _JsonOnly:
    """Sends the last event of a stream as a body of JSON: those before it have no place there, nor have pings."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Send a message of ASGI."""
        if message["type"] == "http.response.start" and _is_of(message, EVENTS):
            self._start = message
        elif self._start is None:
            await self._send(message)
        elif not message.get("more_body", False):
            body = message["body"].partition(b"data: ")[2].rstrip(b"\r\n")
            await self._send(_as(self._start, _JSON_TYPE))
            await self._send({**message, "body": body})


def _is_of(start: Message, kind: str) -> bool:
    return any(name == b"content-type" and value.startswith(kind.encode()) for name, value in start["headers"])


def _as(start: Message, headers: Headers) -> Message:
    """Return the start of a response in another media type, with the headers that belong to it."""
    kept = [header for header in start["headers"] if header[0] not in _REPLACED]
    return {**start, "headers": [*headers, *kept]}
