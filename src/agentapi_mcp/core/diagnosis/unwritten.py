"""The catalogue and health as the program would store them, kept in memory: the doctor changes no row."""

from collections.abc import Mapping

from typing_extensions import override

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.audit.models import AuditEvent
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.core.catalogue.declared_rows import declared_row
from agentapi_mcp.core.catalogue.models import (
    AgentDeclaration,
    AgentHealth,
    AgentRow,
    CatalogueFile,
    CatalogueRows,
)
from agentapi_mcp.core.catalogue.ports import CatalogueStore, HealthStore


class UnwrittenCatalogue(CatalogueStore):
    """The stored agents, with those of the file as a start would write them; without a store, those of the file alone.

    Each load after a write gives a declared agent that has no row yet the same id.
    """

    def __init__(self, stored: CatalogueStore | None) -> None:
        self._stored = stored
        self._file = CatalogueFile((), "")
        self._new: dict[str, AgentRow] = {}

    @override
    async def load(self) -> CatalogueRows:
        stored = CatalogueRows(()) if self._stored is None else await self._stored.load()
        rows = {row.name: row for row in stored.agents}
        for agent in self._file.agents:
            rows[agent.name] = declared_row(agent, rows.get(agent.name) or self._unwritten(agent))
        return CatalogueRows(tuple(rows[name] for name in sorted(rows)), self._file.sha256)

    @override
    async def write(self, file: CatalogueFile) -> bool:
        self._file = file
        return False

    @override
    async def notify_changed(self) -> None:
        return None

    @override
    async def remove(self, agent_id: AgentId, event: AuditEvent) -> None:
        return None

    def _unwritten(self, agent: AgentDeclaration) -> AgentRow:
        return self._new.setdefault(agent.name, declared_row(agent, None))


class UnwrittenHealth(HealthStore):
    """Measurements of this process alone: what others have measured is not believed, and they are not told."""

    def __init__(self) -> None:
        self._measured: dict[AgentId, AgentHealth] = {}

    @override
    async def all_(self) -> Mapping[AgentId, AgentHealth]:
        return dict(self._measured)

    @override
    async def record(self, agent_id: AgentId, check: HealthCheck) -> AgentHealth:
        healthy = check.status is HealthStatus.HEALTHY
        error = None if healthy else check.error
        health = AgentHealth(status=check.status, last_error=error, fault=check.fault, next_step=check.next_step)
        self._measured[agent_id] = health
        return health
