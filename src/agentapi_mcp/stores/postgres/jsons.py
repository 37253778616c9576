"""JSON columns, which other programs may have written too."""

from agentapi_mcp.base.json_values import as_object, load_json


def json_object(text: str | None) -> dict[str, object]:
    """Parse a JSON object; empty for NULL and for any other type."""
    return as_object(load_json(text or "{}"))
