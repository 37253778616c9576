"""The members of a JSON-RPC message: what is meant by some, and what is wrong with others."""

from collections.abc import Callable, Mapping

from agentapi_mcp.base.json_values import is_list, is_object
from agentapi_mcp.edges.mcp.errors import NO_BATCHES


def as_meant(message: object) -> object:
    """Return a message as the SDK reads it, where others write it in another way.

    PHP writes `params` without members as an empty list. An error that answers no request has no `id` since MCP
    2025-11-25, and null in JSON-RPC.
    """
    if not is_object(message):
        return message
    if message.get("params") == []:
        message = {**message, "params": {}}
    return {**message, "id": None} if _is_error(message) and "id" not in message else message


def envelope_fault(message: object) -> str | None:
    """Say what is wrong with a message that the protocol does not allow; None if it is only unusual."""
    if not is_object(message):
        return NO_BATCHES if is_list(message) else "The message must be a JSON object, as JSON-RPC 2.0 defines it."
    return next((words for is_wrong, words in _FAULTS if is_wrong(message)), None)


def _is_error(message: Mapping[str, object]) -> bool:
    return "error" in message and "method" not in message


def _has_wrong_id(message: Mapping[str, object]) -> bool:
    identifier = message.get("id", "")
    if identifier is None and _is_error(message):
        return False  # no response is answered, whatever it says
    return isinstance(identifier, bool) or not isinstance(identifier, str | int)


_FAULTS: tuple[tuple[Callable[[Mapping[str, object]], bool], str], ...] = (
    (lambda message: message.get("jsonrpc") != "2.0", 'The message must have "jsonrpc": "2.0".'),
    (
        _has_wrong_id,
        "The id of a request must be a string or a whole number, without a decimal point; a notification has none.",
    ),
    (lambda message: not isinstance(message.get("method", ""), str), "The method must be a string."),
    (
        lambda message: not (message.get("params") is None or is_object(message["params"])),
        "The params must be an object: MCP takes no list of them.",
    ),
    (
        lambda message: not message.keys() & {"method", "result", "error"},
        "The message must have a method, or be a response with a result or an error.",
    ),
)
