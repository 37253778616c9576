"""Which requests have the shape that the front knows; every other is left to the server, whose answer it must have.

Only the standard library, and of that only what is imported in a few milliseconds (no `typing`, no `dataclasses`).
"""

import json

MODERN = "2026-07-28"
_META = "io.modelcontextprotocol/"
# The server bounds what it parses (base.json_bounds); what is this small and flat stays within its bounds.
_LONGEST = 16_384
_MOST_CONTAINERS = 64
_TOO_LONG_A_NUMBER = b"0" * 101
_IN_NUMBERS = bytes(ord("0") if character in b"0123456789.eE+-" else ord(" ") for character in range(256))


class Members(dict[str, object]):
    """A JSON object."""


_NOTHING = Members()
# What the SDK validates, in the models of the handshake's revisions and of 2026-07-28; all of it may be absent or null.
_CAPABILITIES = Members(
    roots=Members(listChanged=bool),
    sampling=Members(context=_NOTHING, tools=_NOTHING),
    elicitation=Members(form=_NOTHING, url=_NOTHING),
    tasks=Members(
        list=_NOTHING,
        cancel=_NOTHING,
        requests=Members(
            sampling=Members(createMessage=_NOTHING),
            elicitation=Members(create=_NOTHING),
        ),
    ),
)
_CLIENT_INFO = Members(title=str, description=str, websiteUrl=str)


def parse(line: bytes) -> Members | None:
    """Parse a line of the client; None if it is not a JSON object, or if the server might read it in another way."""
    body = line.removesuffix(b"\n").removesuffix(b"\r")
    if not _is_plain(body):
        return None
    try:
        message: object = json.loads(body.decode(), object_pairs_hook=_members, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, Members) else None


def is_request(message: Members) -> bool:
    """Return whether this is a request with nothing in it but what every request has."""
    key = message.get("id")
    return (
        message.keys() - {"params"} == {"jsonrpc", "id", "method"}
        and message["jsonrpc"] == "2.0"
        and (isinstance(key, str) or type(key) is int)  # in Python, bool is an int
        and isinstance(message.get("params", _NOTHING), Members)
    )


def params_of(message: Members) -> Members:
    """Return the parameters of a request; none are the same as no parameters."""
    params = message.get("params")
    return params if isinstance(params, Members) else _NOTHING


def is_initialize(params: Members) -> bool:
    """Return whether the SDK accepts these parameters of `initialize`."""
    required = {"protocolVersion", "capabilities", "clientInfo"}
    return (
        params.keys() - {"_meta"} == required
        and isinstance(params["protocolVersion"], str)
        and _are_capabilities(params["capabilities"])
        and _is_client_info(params["clientInfo"])
        and has_plain_meta(params)
    )


def has_plain_meta(params: Members) -> bool:
    """Return whether `_meta`, if there is one, holds no more than a progress token, which no list makes use of."""
    meta = params.get("_meta", _NOTHING)
    return isinstance(meta, Members) and meta.keys() <= {"progressToken"} and _is_token(meta)


def has_envelope(params: Members) -> bool:
    """Return whether `_meta` is the envelope of a request of 2026-07-28 that the SDK accepts."""
    meta = params.get("_meta")
    if not isinstance(meta, Members):
        return False
    required = {f"{_META}protocolVersion", f"{_META}clientCapabilities"}
    return (
        meta.keys() - {f"{_META}clientInfo", "progressToken"} == required
        and meta[f"{_META}protocolVersion"] == MODERN
        and _are_capabilities(meta[f"{_META}clientCapabilities"])
        and (f"{_META}clientInfo" not in meta or _is_client_info(meta[f"{_META}clientInfo"]))
        and _is_token(meta)
    )


def is_to_resources_alone(params: Members) -> bool:
    """Return whether a subscription is to changes of the list of resources and to nothing else."""
    filters = params.get("notifications")
    return (
        params.keys() == {"_meta", "notifications"}
        and isinstance(filters, Members)
        and filters.keys() == {"resourcesListChanged"}
        and filters["resourcesListChanged"] is True
    )


def _is_plain(body: bytes) -> bool:
    return (
        len(body) <= _LONGEST
        and b"\r" not in body  # ends a line, as the server reads it
        and b"\n" not in body
        and body.count(b"{") + body.count(b"[") <= _MOST_CONTAINERS
        and b"\\ud" not in body.lower()  # perhaps half of a surrogate pair, which the server replaces
        and _TOO_LONG_A_NUMBER not in body.translate(_IN_NUMBERS)
    )


def _members(pairs: list[tuple[str, object]]) -> Members:
    members = Members(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _is_token(meta: Members) -> bool:
    token = meta.get("progressToken", "")
    return isinstance(token, str) or type(token) is int


def _are_capabilities(value: object) -> bool:
    return (
        isinstance(value, Members)
        and _fits(value, _CAPABILITIES)
        and all(_holds_objects(value.get(name)) for name in ("experimental", "extensions"))
    )


def _is_client_info(value: object) -> bool:
    return (
        isinstance(value, Members)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("version"), str)
        and value.get("icons") is None
        and _fits(value, _CLIENT_INFO)
    )


def _holds_objects(value: object) -> bool:
    return value is None or (isinstance(value, Members) and all(isinstance(each, Members) for each in value.values()))


def _fits(value: object, shape: object) -> bool:
    if value is None:
        return True
    if isinstance(shape, Members):
        return isinstance(value, Members) and all(_fits(value.get(name), part) for name, part in shape.items())
    return isinstance(value, bool if shape is bool else str)
