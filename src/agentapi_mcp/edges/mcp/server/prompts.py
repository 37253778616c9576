"""Prompts, which users pick from a client's menu."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
)

from agentapi_mcp.edges.mcp.callers import Context
from agentapi_mcp.edges.mcp.tools.registry import refuse_cursor
from agentapi_mcp.presentation.text import clean, shown

_SEND = "send this message as it stands, and show me the reply with its warning, if it has one."


def _ask_agent(values: Mapping[str, str]) -> str:
    agent = f" with agent {values['agent']}" if "agent" in values else ""
    return f"Call the chat tool{agent}, {_SEND}\n\n{values['message']}"


def _continue_session(values: Mapping[str, str]) -> str:
    return f"Call the chat tool with session_id {values['session_id']}, {_SEND}\n\n{values['message']}"


def _sum_up_session(values: Mapping[str, str]) -> str:
    return (
        f"Read the chat session {values['session_id']} with the get_transcript tool, earlier parts too, and sum it up: "
        "what was asked, what was found, what is open."
    )


_MESSAGE = PromptArgument(name="message", description="What to say to the agent", required=True)
_SESSION = PromptArgument(name="session_id", description="The session; complete it by its title", required=True)


@dataclass(frozen=True, slots=True)
class _Spec:
    prompt: Prompt
    write: Callable[[Mapping[str, str]], str]

    @property
    def arguments(self) -> dict[str, bool]:
        return {argument.name: bool(argument.required) for argument in self.prompt.arguments or []}


_SPECS = {
    spec.prompt.name: spec
    for spec in (
        _Spec(
            Prompt(
                name="ask_agent",
                title="Ask an agent",
                description="Send a message to an agent in a new session.",
                arguments=[_MESSAGE, PromptArgument(name="agent", description="Which agent; else the default one")],
            ),
            _ask_agent,
        ),
        _Spec(
            Prompt(
                name="continue_session",
                title="Go on with a session",
                description="Send another message in an earlier chat session.",
                arguments=[_SESSION, _MESSAGE],
            ),
            _continue_session,
        ),
        _Spec(
            Prompt(
                name="sum_up_session",
                title="Sum up a session",
                description="Read an earlier chat session and sum it up.",
                arguments=[_SESSION],
            ),
            _sum_up_session,
        ),
    )
}


async def list_prompts(_context: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
    """List the prompts in a fixed order, in one page."""
    refuse_cursor(params)
    return ListPromptsResult(prompts=[spec.prompt for spec in _SPECS.values()])


async def get_prompt(_context: Context, params: GetPromptRequestParams) -> GetPromptResult:
    """Render a prompt with its arguments."""
    spec = _SPECS[check_prompt(params.name)]
    values = {name: clean(value) for name, value in (params.arguments or {}).items() if value.strip()}
    for name in values:
        if name not in spec.arguments:
            raise MCPError(INVALID_PARAMS, f"The prompt has no argument {shown(name)!r}; {_names(spec.arguments)}.")
    for name, required in spec.arguments.items():
        if required and name not in values:
            raise MCPError(INVALID_PARAMS, f"The prompt needs the argument {name!r}.")
    message = PromptMessage(role="user", content=TextContent(type="text", text=spec.write(values)))
    return GetPromptResult(description=spec.prompt.description, messages=[message])


def check_prompt(name: str) -> str:
    """Return the name of a prompt that exists.

    Raises:
        MCPError: there is no such prompt; the message lists those that exist.
    """
    if name not in _SPECS:
        raise MCPError(INVALID_PARAMS, f"There is no prompt {shown(name)!r}; {_names(_SPECS)}.")
    return name


def _names(there: Mapping[str, object]) -> str:
    return f"there are {', '.join(there)}"
