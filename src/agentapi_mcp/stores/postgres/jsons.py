"""JSON as a database has it, which others may have written too."""

from agentapi_mcp.base.json_values import as_object, load_json


def json_object(text: str | None) -> dict[str, object]:
    """Read an object; what is none, or not there, is empty."""
    return as_object(load_json(text or "{}"))
