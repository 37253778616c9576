"""Agents, models and organisation settings: as declared, as rows, and as callers see them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from agentapi_mcp.base.ids import AgentId, ModelRowId, OrgId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.access.models import SignInRules
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.keys.models import plain_provider


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationSettings:
    """What holds for every member; None leaves it to the agent, or allows all.

    `allowed_models` names models, providers' ids of models, or `agent/model`.
    """

    default_agent: str | None = None
    default_model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    system_prompt: str | None = None
    allowed_agents: tuple[str, ...] | None = None
    allowed_models: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationNumbers:
    """How much an organisation is used; turns, tokens and cost in USD are of the last thirty days.

    `cost_usd` is None where no turn has a known cost.
    """

    members: int
    sessions: int
    messages: int
    turns: Mapping[str, int] = field(default_factory=dict[str, int])
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """An organisation as its administrators see it: numbers, and no title or text of anybody."""

    id: OrgId
    name: str
    settings: OrganizationSettings
    numbers: OrganizationNumbers


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeclaration:
    """A model as the operator's file declares it; `model_id` is the provider's own id."""

    name: str
    model_id: str
    provider: str
    display_name: str | None = None
    description: str | None = None
    enabled: bool = True
    context_window: int | None = None
    max_output_tokens: int | None = None
    prices: Prices = field(default_factory=Prices)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDeclaration:
    """An agent as the operator's file declares it.

    `options` go to the backend and may hold secrets: they are never stored, logged or returned. `missing` holds what
    the agent lacks, each a sentence for the caller ("OPENROUTER_API_KEY is not set"); with `lacks_key` that is nothing
    but the key in its option `api_key`. `variables` are those that the options name. `otherwise` is how the agent is
    reached where it cannot be reached so.
    """

    name: str
    backend: str
    description: str = ""
    instructions: str | None = None
    enabled: bool = True
    default_model: str | None = None
    options: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    missing: tuple[str, ...] = ()
    models: tuple[ModelDeclaration, ...] = ()
    variables: tuple[str, ...] = ()
    lacks_key: bool = False
    otherwise: "AgentDeclaration | None" = None

    @property
    def providers(self) -> frozenset[str]:
        """The providers, in small letters, whose API the operator says that this agent reaches."""
        option = self.options.get("provider")
        named = [model.provider for model in self.models] + ([option] if isinstance(option, str) else [])
        return frozenset(plain_provider(name) for name in named)


@dataclass(frozen=True, slots=True)
class CatalogueFile:
    """All that the operator's files declare, with the hash of what they say."""

    agents: tuple[AgentDeclaration, ...]
    sha256: str
    sign_in: SignInRules = field(default_factory=SignInRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A row of `models`; context window and prices come from its config."""

    id: ModelRowId
    name: str
    model_id: str
    provider: str
    display_name: str | None
    description: str | None
    enabled: bool
    context_window: int | None
    max_output_tokens: int | None
    prices: Prices


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    """A row of `agents` with its models; `means` names the declared agent that a row of another name stands for."""

    id: AgentId
    name: str
    backend: str
    description: str
    enabled: bool
    means: str | None
    instructions: str | None
    default_model: str | None
    models: tuple[ModelRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """A model as callers see it."""

    agent: str
    name: str
    model_id: str
    provider: str
    description: str | None
    enabled: bool
    is_default: bool
    context_window: int | None
    max_output_tokens: int | None
    prices: Prices


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHealth:
    """What is known of an agent's health; `checked_at` None means that nobody has looked."""

    status: HealthStatus = HealthStatus.UNKNOWN
    checked_at: datetime | None = None
    last_error: str | None = None
    consecutive_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTraffic:
    """What an agent's recent turns took and cost, over completed turns; None when there were none."""

    turns: int = 0
    failures: int = 0
    latency_p50: timedelta | None = None
    latency_p95: timedelta | None = None
    cost_p50_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """An agent as callers see it, with how it is now and what is missing to use it.

    `backend_reason` says why `backend` answers and not the one that the operator prefers, None where that one does.
    """

    name: str
    backend: str
    backend_reason: str | None
    description: str
    enabled: bool
    default_model: str | None
    models: tuple[ModelView, ...]
    missing: tuple[str, ...]
    health: AgentHealth
    traffic: AgentTraffic
