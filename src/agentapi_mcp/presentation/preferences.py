"""Preferences of a user in a client, as JSON and as lines."""

from dataclasses import asdict

from agentapi_mcp.core.catalogue.models import ClientPreferences
from agentapi_mcp.core.clients.preferences import AGENT_PREFERENCES, DEFAULTS
from agentapi_mcp.presentation.models import AgentPreferencesOut, PreferencesOut


def preferences_out(chosen: ClientPreferences) -> PreferencesOut:
    """Serialize the preferences of a user in a client."""
    preferences = chosen.preferences
    return PreferencesOut(
        client=chosen.client,
        default_agent=preferences.default_agent,
        default_model=preferences.default_model,
        agents=[AgentPreferencesOut(agent=name, **asdict(own)) for name, own in sorted(preferences.agents.items())],
    )


def preference_lines(out: PreferencesOut) -> list[str]:
    """List the preferences by the names that set them; unset ones are left out."""
    values = out.model_dump(include=set(DEFAULTS))
    for own in out.agents:
        of_agent = {
            f"{own.agent}.{name}": value for name, value in own.model_dump(include=set(AGENT_PREFERENCES)).items()
        }
        values |= of_agent | {f"{own.agent}.enabled": None if own.enabled else "false"}
    return [f"{name}: {value}" for name, value in values.items() if value is not None]
