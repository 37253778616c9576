"""The answer of a tool that is not a turn: text for the model, everything for programs."""

from mcp_types import Annotations, CallToolResult, TextContent

from agentapi_mcp.presentation.models import OutputModel
from agentapi_mcp.presentation.text import clean

_FOR_THE_MODEL = Annotations(audience=["assistant"])


def answer(text: str, out: OutputModel, *, remark: str | None = None) -> CallToolResult:
    """Answer a tool call; a remark of the server about the text is a block of its own, for the model."""
    blocks = [text_block(text)] + ([] if remark is None else [text_block(remark, annotations=_FOR_THE_MODEL)])
    return CallToolResult(content=[*blocks], structured_content=out.model_dump(mode="json"))


def text_block(text: str, annotations: Annotations | None = None) -> TextContent:
    """Return a block of text."""
    return TextContent(type="text", text=clean(text), annotations=annotations)
