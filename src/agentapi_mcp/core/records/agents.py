"""The catalogue: agents and models as declared, as rows, and as callers see them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

from agentapi_mcp.core.records.api_keys import plain_provider
from agentapi_mcp.core.records.health import AgentHealth, AgentTraffic
from agentapi_mcp.core.records.identities import SignInRules
from agentapi_mcp.core.records.ids import AgentId, ModelRowId


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars per million tokens; None is unknown. `source` and `on` say where and when they were read."""

    input: Decimal | None = None
    output: Decimal | None = None
    cached_input: Decimal | None = None
    source: str | None = None
    on: date | None = None


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
