"""Storage ports of the catalogue."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from agentapi_mcp.base.ids import AgentId, OrgId
from agentapi_mcp.core.audit.models import AuditEvent
from agentapi_mcp.core.backends.models import HealthCheck
from agentapi_mcp.core.catalogue.models import (
    AgentHealth,
    CatalogueFile,
    CatalogueRows,
    Organization,
    Replica,
)
from agentapi_mcp.core.catalogue.term_models import Provider, Term
from agentapi_mcp.core.identity.principals import Principal


class CatalogueStore(Protocol):
    """Agents and models as rows."""

    async def load(self) -> CatalogueRows:
        """Load all agents with their models."""
        ...

    async def write(self, file: CatalogueFile) -> bool:
        """Upsert the declarations by name and notify all processes; False when this hash is already stored."""
        ...

    async def notify_changed(self) -> None:
        """Notify all processes to reload."""
        ...

    async def remove(self, agent_id: AgentId, event: AuditEvent) -> None:
        """Mark a row as removed until a file declares it again, record that, and notify all processes, or do nothing.

        Nothing is deleted.
        """
        ...


class HealthStore(Protocol):
    """Health measurements of the agents, shared by all processes."""

    async def all_(self) -> Mapping[AgentId, AgentHealth]:
        """Read the health of all agents."""
        ...

    async def record(self, agent_id: AgentId, check: HealthCheck) -> AgentHealth:
        """Store a measurement, and count consecutive failures."""
        ...


class ReplicaStore(Protocol):
    """The servers on the database."""

    async def note(self, replica: Replica, alive_within: timedelta) -> Sequence[Replica]:
        """Record that this replica lives, and return the others that were noted within this time."""
        ...

    async def leave(self, replica_id: UUID) -> None:
        """Remove a replica that ends."""
        ...


class OrganizationStore(Protocol):
    """Settings, usage numbers and limits of organisations."""

    async def settings(self, principal: Principal) -> Mapping[str, object]:
        """Read the stored settings of the principal's organisation, not validated."""
        ...

    async def get(self, principal: Principal) -> Organization:
        """Read the organisation with its numbers and limits, or raise NotFoundError."""
        ...

    async def change(self, principal: Principal, changes: Mapping[str, object]) -> None:
        """Set the given keys, unset those that are None, and leave all others."""
        ...

    async def limit(self, operator: Principal, org_id: OrgId, name: str, most: int | None) -> None:
        """Set a limit of any organisation, or remove it, and leave all else; raise NotFoundError if there is none."""
        ...


class TermStore(Protocol):
    """Providers and terms, which belong to no organisation."""

    async def providers(self, principal: Principal) -> tuple[Provider, ...]:
        """List the providers, by their ids."""
        ...

    async def terms(self, principal: Principal) -> tuple[Term, ...]:
        """List the terms, by kind and then in their order."""
        ...

    async def add_provider(self, operator: Principal, provider: Provider) -> tuple[Provider, bool]:
        """Add a provider unless its id is taken; return the one that is there, and whether it is new."""
        ...

    async def add_term(self, operator: Principal, term: Term) -> tuple[Term, bool]:
        """Add a term unless its id is taken in its kind; return the one that is there, and whether it is new."""
        ...
