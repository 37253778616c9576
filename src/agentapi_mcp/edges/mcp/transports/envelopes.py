"""The members of a JSON-RPC message: what is meant by some, and what is wrong with others."""

from collections.abc import Callable, Mapping

from agentapi_mcp.base.json_values import is_list, is_object
from agentapi_mcp.edges.mcp.errors import NO_BATCHES
from agentapi_mcp.web.requests import json_of


def without_empty_list(message: object) -> object:
    """Return a message whose `params` are no empty list, as which PHP writes an object without members."""
    if is_object(message) and message.get("params") == []:
        return {**message, "params": {}}
    return message


def envelope_fault(message: object) -> str | None:
    """Say what is wrong with a message that the protocol does not allow; None if it is only unusual."""
    if not is_object(message):
        return NO_BATCHES if is_list(message) else "The message must be a JSON object, as JSON-RPC 2.0 defines it."
    return next((words for is_wrong, words in _FAULTS if is_wrong(message)), None)


def fault_of_posted(scope: Mapping[str, object]) -> str | None:
    """Say what is wrong with the message of a request, before the SDK reads it; None also if it is not JSON.

    The SDK takes a request whose id is none for a notification, and never answers it.
    """
    try:
        message = json_of(scope)
    except (ValueError, RecursionError):
        return None
    return envelope_fault(message)


def _has_wrong_id(message: Mapping[str, object]) -> bool:
    identifier = message.get("id", "")
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
