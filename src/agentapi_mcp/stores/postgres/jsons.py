"""JSON columns, which other programs may have written too."""

from collections.abc import Callable

from agentapi_mcp.base.json_values import as_object, load_json


def json_object(text: str | None, parse_float: Callable[[str], object] = float) -> dict[str, object]:
    """Parse a JSON object; empty for NULL, for any other type, and for more than the bounds of untrusted JSON."""
    try:
        return as_object(load_json(text or "{}", parse_float=parse_float))
    except (ValueError, RecursionError):  # jsonb may nest deeper than is parsed here
        return {}
