"""The tools of the toolset `preferences`: what a user has chosen in the client that they use."""

from dataclasses import dataclass

from mcp_types import CallToolResult

from agentapi_mcp.core.catalogue.models import ClientPreferences
from agentapi_mcp.core.clients.preferences import AGENT_PREFERENCES, DEFAULTS
from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.edges.mcp.callers import Callers, Context, preferring_client
from agentapi_mcp.edges.mcp.tools.arguments import Argument, ToolArguments
from agentapi_mcp.edges.mcp.tools.list_tools import answer
from agentapi_mcp.edges.mcp.tools.registry import ToolSpec
from agentapi_mcp.presentation.models import PreferencesOut
from agentapi_mcp.presentation.preferences import preference_lines, preferences_out
from agentapi_mcp.presentation.text import clean


@dataclass(frozen=True, slots=True)
class PreferenceTools:
    """What the two tools need."""

    callers: Callers

    async def get_preferences(self, context: Context, _given: ToolArguments) -> CallToolResult:
        """Show what the caller has chosen in this client."""
        caller = await self.callers.identify(context)
        return _shown(await caller.services.clients.get(caller.principal, preferring_client(context)))

    async def set_preference(self, context: Context, given: ToolArguments) -> CallToolResult:
        """Choose one thing in this client, or take it back."""
        caller = await self.callers.identify(context)
        client, name = preferring_client(context), given.text("name")
        return _shown(await caller.services.clients.change(caller.principal, client, name, given.find_text("value")))


def _shown(chosen: ClientPreferences) -> CallToolResult:
    out = preferences_out(chosen)
    lines = [f"- {clean(line)}" for line in preference_lines(out)] or ["Nothing is chosen: the usual agent and models."]
    return answer("\n".join([f"Preferences in {out.client}:", *lines]), out)


def preference_specs(tools: PreferenceTools) -> tuple[ToolSpec, ...]:
    """List the tools for what a user chooses."""
    of_agent = ", ".join(f"AGENT.{name}" for name in AGENT_PREFERENCES)
    return (
        ToolSpec(
            name="get_preferences",
            title="Get preferences",
            about="Show what the user has chosen in this client: default agent and model, and what single agents take.",
            arguments=(),
            answers=PreferencesOut,
            run=tools.get_preferences,
            action=Action.READ_CATALOGUE,
        ),
        ToolSpec(
            name="set_preference",
            title="Set a preference",
            about="Choose in this client which agent answers by default, or what an agent takes; for this user alone.",
            arguments=(
                Argument(name="name", required=True, about=f"{', '.join(DEFAULTS)}, {of_agent}"),
                Argument(name="value", about="Leave it out to take the preference back"),
            ),
            answers=PreferencesOut,
            run=tools.set_preference,
            action=Action.EDIT_PREFERENCES,
            reads_only=False,
        ),
    )
