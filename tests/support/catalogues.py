"""Builders of catalogues, and their ports in memory, for tests of what the core makes of them."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

from typing_extensions import override

from agentapi_mcp.base.ids import AgentId, ModelRowId, OrgId, UserId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.audit.models import AuditEvent
from agentapi_mcp.core.backends.events import BackendEvent, Finished
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, HealthStatus
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.core.catalogue.models import (
    AgentDeclaration,
    AgentHealth,
    AgentRow,
    CatalogueFile,
    CatalogueRows,
    ModelDeclaration,
    ModelRow,
)
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.usage.models import UsageGroup, UsageRow, UsageRows, UsageSpan, UsageSums
from agentapi_mcp.core.usage.ports import UsageStore
from tests.support.clocks import ManualClock

ALICE = Principal(UserId(UUID(int=1)), OrgId(UUID(int=2)))
BOB = Principal(UserId(UUID(int=3)), OrgId(UUID(int=2)))


@dataclass
class CheckedBackend:
    """A backend that answers checks as told, and counts them."""

    outcome: HealthCheck = field(default_factory=lambda: HealthCheck(status=HealthStatus.HEALTHY))
    capabilities: frozenset[Capability] = frozenset({Capability.FREE_CHECK})
    checks: int = 0
    closed: bool = False

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent, None]:
        """Say nothing."""
        del turn
        yield Finished()

    async def check(self) -> HealthCheck:
        """Count, and answer as told."""
        self.checks += 1
        return self.outcome

    async def aclose(self) -> None:
        """Remember it."""
        self.closed = True


@dataclass
class MemoryCatalogue:
    """The rows of a catalogue in memory."""

    rows: tuple[AgentRow, ...] = ()
    sha256: str = "sha"
    loads: int = 0
    written: list[CatalogueFile] = field(default_factory=list[CatalogueFile])

    async def load(self) -> CatalogueRows:
        """Count, and return the rows."""
        self.loads += 1
        return CatalogueRows(self.rows, self.sha256)

    async def write(self, file: CatalogueFile) -> bool:
        """Remember it."""
        self.written.append(file)
        self.sha256 = file.sha256
        return True

    async def remove(self, agent_id: AgentId, event: AuditEvent) -> None:  # noqa: ARG002  # no log here
        """Mark it."""
        self.rows = tuple(replace(row, removed=True) if row.id == agent_id else row for row in self.rows)

    async def notify_changed(self) -> None:
        """Tell nobody: there is no other process."""


class MemoryHealth:
    """The health of agents in memory, by the same rules as in Postgres."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.known: dict[AgentId, AgentHealth] = {}

    async def all_(self) -> Mapping[AgentId, AgentHealth]:
        """Tell what is known."""
        return dict(self.known)

    async def record(self, agent_id: AgentId, check: HealthCheck) -> AgentHealth:
        """Count failures in a row."""
        before = self.known.get(agent_id, AgentHealth())
        failures = {HealthStatus.HEALTHY: 0, HealthStatus.DEGRADED: 1}.get(
            check.status, before.consecutive_failures + 1
        )
        status = HealthStatus.HEALTHY if failures == 0 else HealthStatus.DEGRADED
        self.known[agent_id] = AgentHealth(
            status=HealthStatus.UNHEALTHY if failures >= 3 else status,
            checked_at=self.clock.now(),
            last_error=check.error,
            consecutive_failures=failures,
        )
        return self.known[agent_id]


class MemoryUsage(UsageStore):
    """Usage of agents that a test puts in."""

    def __init__(self) -> None:
        self.of_agents: dict[str, UsageSums] = {}

    @override
    async def sums(
        self, principal: Principal, span: UsageSpan, by: UsageGroup | None, *, whole: bool, limit: int
    ) -> UsageRows:
        """Tell what was put in, whoever asks."""
        del principal, span, whole
        rows = tuple(UsageRow(key=name, sums=sums) for name, sums in self.of_agents.items())
        return UsageRows(total=UsageSums(), rows=rows[:limit] if by else (), groups=len(rows))


def declared(name: str, *models: str, backend: str = "openai") -> AgentDeclaration:
    """Declare an agent whose models have the provider's id `vendor/NAME`."""
    declarations = tuple(
        ModelDeclaration(name=model, model_id=f"vendor/{model}", provider="vendor") for model in models
    )
    return AgentDeclaration(name=name, backend=backend, models=declarations)


def agent_row(name: str, *models: ModelRow) -> AgentRow:
    """Make a row of `agents`."""
    return AgentRow(
        id=AgentId(uuid4()),
        name=name,
        backend="custom",
        description=f"The agent {name}.",
        enabled=True,
        means=None,
        instructions=None,
        default_model=None,
        models=models,
    )


def model_row(name: str, *, enabled: bool = True, context_window: int | None = None) -> ModelRow:
    """Make a row of `models`."""
    return ModelRow(
        id=ModelRowId(uuid4()),
        name=name,
        model_id=f"vendor/{name}",
        provider="vendor",
        display_name=None,
        description=None,
        enabled=enabled,
        context_window=context_window,
        max_output_tokens=None,
        prices=Prices(),
    )
