"""Storage ports of the catalogue."""

from collections.abc import Mapping
from typing import Protocol

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthCheck
from agentapi_mcp.core.catalogue.models import AgentHealth, AgentRow, AgentTraffic, CatalogueFile, Organization
from agentapi_mcp.core.identity.principals import Principal


class CatalogueStore(Protocol):
    """Agents and models as rows."""

    async def load(self) -> tuple[AgentRow, ...]:
        """Read all agents with their models, by name."""
        ...

    async def write(self, file: CatalogueFile) -> bool:
        """Upsert what the operator's files declare, by name, and tell it; False when this hash is already written."""
        ...

    async def tell_changed(self) -> None:
        """Tell every process that there is something new to read."""
        ...


class HealthStore(Protocol):
    """What was measured of the agents, shared by all processes."""

    async def all_(self) -> Mapping[AgentId, AgentHealth]:
        """Read what is known of every agent."""
        ...

    async def record(self, agent_id: AgentId, check: HealthCheck) -> AgentHealth:
        """Keep a measurement, and count failures in a row."""
        ...

    async def traffic(self) -> Mapping[str, AgentTraffic]:
        """Summarise the recent turns of every agent, by name."""
        ...


class OrganizationStore(Protocol):
    """Organisations: what they set for their members, and their numbers."""

    async def settings(self, principal: Principal) -> Mapping[str, object]:
        """Read what the principal's organisation sets for its members, as it is written."""
        ...

    async def get(self, principal: Principal) -> Organization:
        """Read it with its numbers, or raise NotFoundError."""
        ...

    async def change(self, principal: Principal, changes: Mapping[str, object]) -> None:
        """Set what is given, take back what is None, and leave every other key."""
        ...
