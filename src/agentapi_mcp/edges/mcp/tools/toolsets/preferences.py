"""The tools of the toolset `preferences`: what a user has chosen in the client that they use."""

from mcp_types import CallToolResult

from agentapi_mcp.core.catalogue.models import ClientPreferences
from agentapi_mcp.core.clients.preferences import AGENT_PREFERENCES, DEFAULTS
from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.edges.mcp.callers import preferring_client
from agentapi_mcp.edges.mcp.tools.answers import answer
from agentapi_mcp.edges.mcp.tools.arguments import Argument
from agentapi_mcp.edges.mcp.tools.declarations import ToolCall, Toolset, ToolSpec
from agentapi_mcp.presentation.models import PreferencesOut
from agentapi_mcp.presentation.preferences import preference_lines, preferences_out
from agentapi_mcp.presentation.text import clean

TOOLSET = Toolset()

_OF_AGENT = ", ".join(f"AGENT.{name}" for name in AGENT_PREFERENCES)


@TOOLSET.tool(
    ToolSpec(
        name="get_preferences",
        title="Get preferences",
        about="Show what the user has chosen in this client: default agent and model, and what single agents take.",
        arguments=(),
        answers=PreferencesOut,
        action=Action.READ_CATALOGUE,
    )
)
async def get_preferences(call: ToolCall) -> CallToolResult:
    """Show what the caller has chosen in this client."""
    caller = await call.identify()
    return _shown(await caller.services.clients.get(caller.principal, preferring_client(call.context)))


@TOOLSET.tool(
    ToolSpec(
        name="set_preference",
        title="Set a preference",
        about="Choose in this client which agent answers by default, or what an agent takes; for this user alone.",
        arguments=(
            Argument(name="name", required=True, about=f"{', '.join(DEFAULTS)}, {_OF_AGENT}"),
            Argument(name="value", about="Leave it out to take the preference back", verbatim=True, scalar=True),
        ),
        answers=PreferencesOut,
        action=Action.EDIT_PREFERENCES,
        reads_only=False,
    )
)
async def set_preference(call: ToolCall) -> CallToolResult:
    """Choose one thing in this client, or take it back."""
    caller = await call.identify()
    client, name = preferring_client(call.context), call.given.text("name")
    return _shown(await caller.services.clients.change(caller.principal, client, name, call.given.find_text("value")))


def _shown(chosen: ClientPreferences) -> CallToolResult:
    out = preferences_out(chosen)
    lines = [f"- {clean(line)}" for line in preference_lines(out)] or ["Nothing is chosen: the usual agent and models."]
    return answer("\n".join([f"Preferences in {out.client}:", *lines]), out)
