"""What the suite wants to be told: texts, a picture and a sound, as its scenarios spell them."""

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    GetPromptResult,
    ImageContent,
    Prompt,
    PromptArgument,
    PromptMessage,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
)

# One red pixel, and a WAV file without samples.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="

PICTURE = ImageContent(type="image", data=PNG, mime_type="image/png")
SOUND = AudioContent(type="audio", data=WAV, mime_type="audio/wav")


def text(said: str) -> TextContent:
    """Return it as content."""
    return TextContent(type="text", text=said)


def answer(said: str, *, is_error: bool = False) -> CallToolResult:
    """Return it as the result of a tool."""
    return CallToolResult(content=[text(said)], is_error=is_error)


def embedded(uri: str, mime_type: str, said: str) -> EmbeddedResource:
    """Return a resource within content."""
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=said))


RESULTS = {
    "test_simple_text": answer("This is a simple text response for testing."),
    "test_image_content": CallToolResult(content=[PICTURE]),
    "test_audio_content": CallToolResult(content=[SOUND]),
    "test_embedded_resource": CallToolResult(
        content=[embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]
    ),
    "test_multiple_content_types": CallToolResult(
        content=[
            text("Multiple content types test:"),
            PICTURE,
            embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
        ]
    ),
    "test_error_handling": answer("This tool intentionally returns an error for testing", is_error=True),
    "json_schema_2020_12_tool": answer("ok"),
    "test_x_mcp_header": answer("ok"),
}

RESOURCES = {
    "test://static-text": TextResourceContents(
        uri="test://static-text", mime_type="text/plain", text="This is the content of the static text resource."
    ),
    "test://static-binary": BlobResourceContents(uri="test://static-binary", mime_type="image/png", blob=PNG),
    "test://template/123/data": TextResourceContents(
        uri="test://template/123/data",
        mime_type="application/json",
        text='{"id":"123","templateTest":true,"data":"Data for ID: 123"}',
    ),
    "test://watched-resource": TextResourceContents(
        uri="test://watched-resource", mime_type="text/plain", text="Watched."
    ),
}
LISTED_RESOURCES = [
    Resource(uri=uri, name=uri.partition("://")[2], description="A resource of the suite.", mime_type=part.mime_type)
    for uri, part in RESOURCES.items()
    if "/template/" not in uri
]
TEMPLATE = ResourceTemplate(
    uri_template="test://template/{id}/data", name="template", description="Data by its id.", mime_type="text/plain"
)


def prompt(name: str, *arguments: str) -> Prompt:
    """Describe a prompt that needs these arguments."""
    needed = [PromptArgument(name=argument, description="An argument", required=True) for argument in arguments]
    return Prompt(name=name, description="A prompt of the suite.", arguments=needed)


PROMPTS = {
    each.name: each
    for each in (
        prompt("test_simple_prompt"),
        prompt("test_prompt_with_arguments", "arg1", "arg2"),
        prompt("test_prompt_with_embedded_resource", "resourceUri"),
        prompt("test_prompt_with_image"),
        prompt("test_input_required_result_prompt"),
    )
}


def write_prompt(name: str, given: dict[str, str]) -> GetPromptResult:
    """Write a prompt out."""
    written = {
        "test_simple_prompt": lambda: [text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments": lambda: [
            text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")
        ],
        "test_prompt_with_embedded_resource": lambda: [
            embedded(given["resourceUri"], "text/plain", "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ],
        "test_prompt_with_image": lambda: [PICTURE, text("Please analyze the image above.")],
    }[name]()
    return GetPromptResult(messages=[PromptMessage(role="user", content=each) for each in written])
