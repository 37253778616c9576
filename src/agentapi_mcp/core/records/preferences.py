"""What a user has chosen in one of their MCP clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPreferences:
    """What a user's client takes where a message to this agent says nothing; one that is not `enabled` is not there."""

    enabled: bool = True
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    system_prompt: str | None = None


_USUAL = AgentPreferences()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """Who answers in this client where nobody is named, and what is chosen for single agents, by name."""

    default_agent: str | None = None
    default_model: str | None = None
    agents: Mapping[str, AgentPreferences] = field(default_factory=dict[str, AgentPreferences])

    def of_agent(self, name: str) -> AgentPreferences:
        """Return what is chosen for an agent."""
        return self.agents.get(name, _USUAL)


NO_PREFERENCES = Preferences()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPreferences:
    """One of a user's MCP clients, by the name that it gives itself."""

    client: str
    preferences: Preferences
