"""Preferences of a user in a client."""

from dataclasses import asdict

from agentapi_mcp.core.catalogue.models import ClientPreferences
from agentapi_mcp.core.clients.preferences import AGENT_PREFERENCES, DEFAULTS
from agentapi_mcp.presentation.models import AgentPreferencesOut, PreferencesOut


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
        of_agent = {
            f"{own.agent}.{name}": value for name, value in own.model_dump(include=set(AGENT_PREFERENCES)).items()
        }
        said |= of_agent | {f"{own.agent}.enabled": None if own.enabled else "false"}
    return [f"{name}: {value}" for name, value in said.items() if value is not None]
