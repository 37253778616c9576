"""The tools of the toolset `preferences`: what a user has chosen in the client that they use."""

from dataclasses import asdict, dataclass

from mcp_types import CallToolResult

from agentapi_mcp.core.clients import DEFAULTS, OF_AGENT
from agentapi_mcp.core.identity import Action
from agentapi_mcp.core.records.preferences import ClientPreferences
from agentapi_mcp.mcp.arguments import Argument, Given
from agentapi_mcp.mcp.callers import Callers, Context, preferring_client
from agentapi_mcp.mcp.list_tools import answer
from agentapi_mcp.mcp.texts import clean
from agentapi_mcp.mcp.tool_models import AgentPreferencesOut, PreferencesOut
from agentapi_mcp.mcp.tools import ToolSpec


@dataclass(frozen=True, slots=True)
class PreferenceTools:
    """What the two tools need."""

    callers: Callers

    async def get_preferences(self, context: Context, _given: Given) -> CallToolResult:
        """Show what the caller has chosen in this client."""
        caller = await self.callers.identify(context)
        return _shown(await caller.services.clients.get(caller.principal, preferring_client(context)))

    async def set_preference(self, context: Context, given: Given) -> CallToolResult:
        """Choose one thing in this client, or take it back."""
        caller = await self.callers.identify(context)
        client, name = preferring_client(context), given.text("name")
        return _shown(await caller.services.clients.change(caller.principal, client, name, given.find_text("value")))


def preferences_out(chosen: ClientPreferences) -> PreferencesOut:
    """Say what is chosen in a client as clients read it."""
    preferences = chosen.preferences
    return PreferencesOut(
        client=chosen.client,
        default_agent=preferences.default_agent,
        default_model=preferences.default_model,
        agents=[AgentPreferencesOut(agent=name, **asdict(own)) for name, own in sorted(preferences.agents.items())],
    )


def preference_lines(out: PreferencesOut) -> list[str]:
    """Say it in the words by which it is set."""
    said = out.model_dump(include=set(DEFAULTS))
    for own in out.agents:
        of_agent = {f"{own.agent}.{name}": value for name, value in own.model_dump(include=set(OF_AGENT)).items()}
        said |= of_agent | {f"{own.agent}.enabled": None if own.enabled else "false"}
    return [f"{name}: {value}" for name, value in said.items() if value is not None]


def _shown(chosen: ClientPreferences) -> CallToolResult:
    out = preferences_out(chosen)
    lines = [f"- {clean(line)}" for line in preference_lines(out)] or ["Nothing is chosen: the usual agent and models."]
    return answer("\n".join([f"Preferences in {out.client}:", *lines]), out)


def preference_specs(tools: PreferenceTools) -> tuple[ToolSpec, ...]:
    """List the tools for what a user chooses."""
    of_agent = ", ".join(f"AGENT.{name}" for name in OF_AGENT)
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
