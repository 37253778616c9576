"""Models of the catalogue: declarations, rows and views of agents, and settings of organisations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import AgentId, ModelRowId, OrgId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.access.models import SignInRules
from agentapi_mcp.core.accounts.models import AccountProvider
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.keys.models import plain_provider
from agentapi_mcp.core.usage.models import UsageSums


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationSettings:
    """Settings for all members; None leaves the choice to the agent, or allows everything.

    `allowed_models` has model names, provider ids or `agent/model`.
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
    """Usage of an organisation; turns that have ended, tokens and cost in USD cover the last thirty days.

    Tokens and `cost_usd` are None if no turn has a known number of them, or a known cost. `unknown_tokens` and
    `unknown_costs` are how many turns that an agent was asked for are missing in these sums.
    """

    members: int
    sessions: int
    messages: int
    turns: Mapping[str, int] = field(default_factory=dict[str, int])
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    unknown_tokens: int
    unknown_costs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationLimit:
    """How much of a resource an organisation may have and has; `most` is None where nothing bounds it.

    One that is not `readable` is no number where it is written, and bounds nothing.
    """

    resource: Resource
    most: int | None
    used: int
    readable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """An organisation as its administrators see it: never titles or messages of members.

    `undeclared_agents` are those that its settings name and the configuration file does not declare.
    """

    id: OrgId
    name: str
    settings: OrganizationSettings
    numbers: OrganizationNumbers
    limits: tuple[OrganizationLimit, ...]
    undeclared_agents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeclaration:
    """A model declared in the operator's file; `model_id` is the provider's id."""

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
    """An agent declared in the operator's file.

    `options` are passed to the backend and may contain secrets: they are never stored, logged or returned. `missing`
    lists what the agent lacks, as sentences for the caller ("OPENROUTER_API_KEY is not set"); `lacks_key` means
    that only the option `api_key` is missing. `variables` are the environment variables that the options name, and
    `key_variables` those of the option `api_key`. `otherwise` is the fallback if this backend cannot be used.
    `needs_account` names where every caller must have connected an account, which pays. `abandon_after` is for how
    long a turn runs on when its caller is gone and is expected back.
    """

    name: str
    backend: str
    description: str = ""
    instructions: str | None = None
    enabled: bool = True
    default_model: str | None = None
    abandon_after: timedelta = timedelta(minutes=10)
    options: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    missing: tuple[str, ...] = ()
    models: tuple[ModelDeclaration, ...] = ()
    variables: tuple[str, ...] = ()
    key_variables: tuple[str, ...] = ()
    lacks_key: bool = False
    needs_account: str | None = None
    otherwise: "AgentDeclaration | None" = None

    @property
    def providers(self) -> frozenset[str]:
        """The providers that the operator declares for this agent, in lower case."""
        option = self.options.get("provider")
        named = [model.provider for model in self.models] + ([option] if isinstance(option, str) else [])
        return frozenset(plain_provider(name) for name in named)


@dataclass(frozen=True, slots=True)
class CatalogueFile:
    """The content of the operator's files, with its hash."""

    agents: tuple[AgentDeclaration, ...]
    sha256: str
    sign_in: SignInRules = field(default_factory=SignInRules)
    accounts: tuple[AccountProvider, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A server on the database; `configuration` is a hash of what its answers depend on."""

    id: UUID
    version: str
    configuration: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A row of `models`; context window and prices come from its `config` column.

    `declared`: the last configuration file that was written has it.
    """

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
    declared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    """A row of `agents` with its models; `means` is the name of the declared agent if the row's name differs.

    `removed`: the operator took it out of the lists, and it stays for what refers to it.
    """

    id: AgentId
    name: str
    backend: str
    description: str
    enabled: bool
    means: str | None
    instructions: str | None
    default_model: str | None
    models: tuple[ModelRow, ...]
    removed: bool = False


@dataclass(frozen=True, slots=True)
class CatalogueRows:
    """The rows of all agents with their models, by name, and the hash of the file that was written to them last."""

    agents: tuple[AgentRow, ...]
    sha256: str = ""


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
    """Defaults of a user's client for messages to an agent; a disabled agent is hidden in this client."""

    enabled: bool = True
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    system_prompt: str | None = None


_DEFAULT_PREFERENCES = AgentPreferences()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """Defaults of a client, and its preferences for single agents by name."""

    default_agent: str | None = None
    default_model: str | None = None
    agents: Mapping[str, AgentPreferences] = field(default_factory=dict[str, AgentPreferences])

    def of_agent(self, name: str) -> AgentPreferences:
        """Return the preferences for an agent."""
        return self.agents.get(name, _DEFAULT_PREFERENCES)


NO_PREFERENCES = Preferences()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPreferences:
    """Preferences of one of a user's MCP clients, by the name that the client reports."""

    client: str
    preferences: Preferences


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHealth:
    """Last known health of an agent; `checked_at` is None before the first measurement.

    `fault` and `next_step` are known of a check that was just made for `doctor`; they are not stored.
    """

    status: HealthStatus = HealthStatus.UNKNOWN
    checked_at: datetime | None = None
    last_error: str | None = None
    fault: BackendFault | None = None
    next_step: str | None = None
    consecutive_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """An agent as callers see it, with its health, missing configuration, and usage in the last thirty days.

    `backend_reason` explains why the fallback `backend` is used; None if the preferred one is.
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
    usage: UsageSums
