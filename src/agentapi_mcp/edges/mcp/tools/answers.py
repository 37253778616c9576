"""The answer of a tool that is not a turn: text for the model, everything for programs."""

from mcp_types import CallToolResult, TextContent

from agentapi_mcp.presentation.models import OutputModel
from agentapi_mcp.presentation.text import clean


def answer(text: str, out: OutputModel) -> CallToolResult:
    """Answer a tool call."""
    return CallToolResult(
        content=[TextContent(type="text", text=clean(text))], structured_content=out.model_dump(mode="json")
    )
