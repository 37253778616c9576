"""The catalogue and health as the program would store them, kept in memory: the doctor changes no row."""

from collections.abc import Mapping

from typing_extensions import override

from agentapi_mcp.base.ids import AgentId, ModelRowId, new_id
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.core.catalogue.models import (
    AgentDeclaration,
    AgentHealth,
    AgentRow,
    AgentTraffic,
    CatalogueFile,
    ModelDeclaration,
    ModelRow,
)
from agentapi_mcp.core.catalogue.ports import CatalogueStore, HealthStore


class UnwrittenCatalogue(CatalogueStore):
    """The stored agents, with those of the file as a start would write them; without a store, those of the file alone.

    Each load after a write gives a declared agent that has no row yet the same id.
    """

    def __init__(self, stored: CatalogueStore | None) -> None:
        self._stored = stored
        self._declared: tuple[AgentDeclaration, ...] = ()
        self._ids: dict[str, AgentId] = {}

    @override
    async def load(self) -> tuple[AgentRow, ...]:
        rows = {row.name: row for row in ((await self._stored.load()) if self._stored is not None else ())}
        for agent in self._declared:
            rows[agent.name] = self._written(agent, rows.get(agent.name))
        return tuple(rows[name] for name in sorted(rows))

    @override
    async def write(self, file: CatalogueFile) -> bool:
        self._declared = file.agents
        return False

    @override
    async def notify_changed(self) -> None:
        return None

    def _written(self, agent: AgentDeclaration, row: AgentRow | None) -> AgentRow:
        own = {model.name: _model_row(model) for model in agent.models}
        others = {model.name: model for model in row.models if model.name not in own} if row is not None else {}
        return AgentRow(
            id=row.id if row is not None else self._ids.setdefault(agent.name, AgentId(new_id())),
            name=agent.name,
            backend=agent.backend,
            description=agent.description,
            enabled=agent.enabled,
            means=row.means if row is not None else None,
            instructions=agent.instructions,
            default_model=agent.default_model,
            models=(*own.values(), *others.values()),
        )


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

    @override
    async def traffic(self) -> Mapping[str, AgentTraffic]:
        return {}


def _model_row(model: ModelDeclaration) -> ModelRow:
    return ModelRow(
        id=ModelRowId(new_id()),
        name=model.name,
        model_id=model.model_id,
        provider=model.provider,
        display_name=model.display_name,
        description=model.description,
        enabled=model.enabled,
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
        prices=model.prices,
    )
