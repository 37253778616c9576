"""What an organisation sets for the chats of its members, and its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from agentapi_mcp.core.identity import OrgId


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
