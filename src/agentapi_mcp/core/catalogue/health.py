"""Health of the server and its agents, from real traffic and from free checks on demand."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import AgentApiError, BackendError, BackendFault, StoreError, sentences
from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.core.catalogue.agent_views import Measurements, agent_view
from agentapi_mcp.core.catalogue.catalogue import CatalogueEntry, find_agent
from agentapi_mcp.core.catalogue.models import AgentHealth, AgentView
from agentapi_mcp.core.catalogue.policy import CataloguePolicy
from agentapi_mcp.core.catalogue.ports import HealthStore
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.keys.mending import Payer
from agentapi_mcp.core.usage.usage import Usage

_log = logging.getLogger(__name__)

CHECK_INTERVAL = timedelta(seconds=60)
_RECORD_EVERY = timedelta(seconds=5)

# These faults do not count against the agent: the request was invalid, or it was cancelled.
_NOT_THE_AGENTS_FAULT = frozenset(
    {
        BackendFault.BAD_REQUEST,
        BackendFault.CONTEXT_LENGTH,
        BackendFault.CONTENT_POLICY,
        BackendFault.NOT_FOUND,
        BackendFault.CANCELLED,
    }
)
_MENDED_BY_KEYS = frozenset({BackendFault.AUTH, BackendFault.PAYMENT})


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the server; `probe` makes a real request and may return a remark, None means there is nothing to probe.

    A part with a remark has the status `remarked`. The server is ready only if all `needed` parts work; it continues
    without the others, which therefore only degrade it. One that `has_answered_lately`, to requests of callers, works
    without a probe.
    """

    name: str
    detail: str
    probe: Callable[[], Awaitable[str | None]] | None = None
    needed: bool = False
    remarked: HealthStatus = HealthStatus.HEALTHY
    has_answered_lately: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHealth:
    """Health and latency of a part of the server."""

    name: str
    status: HealthStatus
    detail: str
    latency: timedelta | None = None


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Health of the server's parts and agents."""

    parts: tuple[PartHealth, ...]
    agents: tuple[AgentView, ...]


def check_of_turn(
    fault: BackendFault | None, payer: Payer | None = None, *, latency: timedelta | None = None
) -> HealthCheck:
    """Convert the outcome of a turn to a health check; a `fault` of None is an answer.

    Where the fault is about the key that the server pays with, the check says what mends it.
    """
    # The provider's message is left out: it can quote the user's message, and all members see an agent's health.
    if fault is None:
        return HealthCheck(status=HealthStatus.HEALTHY, latency=latency)
    if fault in _NOT_THE_AGENTS_FAULT:
        return HealthCheck(status=HealthStatus.UNKNOWN)
    error = f"A turn failed: {fault.replace('_', ' ')}."
    if fault in _MENDED_BY_KEYS and payer is not None and payer.variables:
        error = sentences(error, payer.mends(BackendError(fault, error)))
    return HealthCheck(status=HealthStatus.UNHEALTHY, error=error, latency=latency)


class Health:
    """Measure each agent at most once a minute across all processes of the database."""

    def __init__(
        self,
        *,
        policy: CataloguePolicy,
        store: HealthStore,
        clock: Clock,
        parts: Sequence[Part] = (),
        deadline: timedelta = timedelta(seconds=5),
        usage: Usage | None = None,
    ) -> None:
        self._usage = usage
        self._policy = policy
        self._store = store
        self._clock = clock
        self._parts = tuple(parts)
        self._deadline = deadline
        self._measuring = asyncio.Lock()
        self._tried: dict[AgentId, datetime] = {}
        self._healthy_until: dict[AgentId, float] = {}

    async def report(self, principal: Principal, agent: str | None = None, *, fresh: bool = False) -> HealthReport:
        """Measure the parts and all agents, or one; a database failure is part of the report.

        `fresh` repeats recent measurements.

        Raises:
            NotFoundError: there is no such agent.
        """
        require(principal, Action.READ_CATALOGUE)
        parts = await self._probe_all(self._parts)
        try:
            entries = await self._policy.entries(principal)
            wanted = (
                tuple(entries)
                if agent is None
                else (find_agent(entries, agent, await self._policy.undeclared(principal)),)
            )
            measured = await self.measure(wanted, principal, fresh=fresh)
        except StoreError:
            return HealthReport(parts, ())
        return HealthReport(parts, tuple(agent_view(entry, measured) for entry in wanted))

    async def is_ready(self) -> bool:
        """Return whether all needed parts answer, or have answered callers a moment ago."""
        # A probe waits behind those callers, and a server that is busy would be taken for one that cannot serve.
        silent = [part for part in self._parts if part.needed and not part.has_answered_lately()]
        probed = await self._probe_all(silent)
        return all(part.status is HealthStatus.HEALTHY for part in probed)

    async def warnings(self, within: timedelta) -> tuple[str, ...]:
        """Return the names of the degraded parts, which leave the server ready.

        One that says nothing `within` this time is not named: it may wait behind callers.
        """
        parts = [part for part in self._parts if not part.needed]
        async with asyncio.TaskGroup() as group:
            found = [group.create_task(self._is_degraded(part, within)) for part in parts]
        return tuple(part.name for part, one in zip(parts, found, strict=True) if one.result())

    async def _is_degraded(self, part: Part, within: timedelta) -> bool:
        try:
            async with asyncio.timeout(within.total_seconds()):
                return (await self._probe(part)).status is HealthStatus.DEGRADED
        except TimeoutError:
            return False

    async def observe(self, agent_id: AgentId, outcome: HealthCheck) -> None:
        """Record the outcome of real traffic, and repeated success at most every 5 s; store errors are only logged."""
        if outcome.status in {HealthStatus.UNKNOWN, HealthStatus.NOT_CONFIGURED}:
            return
        healthy = outcome.status is HealthStatus.HEALTHY
        if healthy and self._clock.monotonic() < self._healthy_until.get(agent_id, 0.0):
            return
        try:
            await self._store.record(agent_id, outcome)
            self._healthy_until[agent_id] = self._clock.monotonic() + _RECORD_EVERY.total_seconds() if healthy else 0.0
        except StoreError:
            _log.warning("agent_health_not_recorded", extra={"agent_id": str(agent_id)})

    async def measure(
        self, entries: Sequence[CatalogueEntry], principal: Principal | None = None, *, fresh: bool = False
    ) -> Measurements:
        """Run the free checks that are due, then return the measurements of all agents.

        Beside them is the usage of the last thirty days that the principal may see; nobody sees any.
        """
        health = await self._store.all_()
        if self._due(entries, health, fresh=fresh):
            async with self._measuring:  # a concurrent caller finds these results on its second look
                await self._check_all(self._due(entries, await self._store.all_(), fresh=fresh))
                health = await self._store.all_()
        usage = {} if principal is None or self._usage is None else await self._usage.of_agents(principal)
        return Measurements(health, usage, self._clock.now())

    def _due(
        self, entries: Sequence[CatalogueEntry], health: Mapping[AgentId, AgentHealth], *, fresh: bool = False
    ) -> list[tuple[CatalogueEntry, Backend]]:
        return [
            (entry, entry.backend)
            for entry in entries
            if entry.row.enabled
            and entry.backend is not None
            and Capability.FREE_CHECK in entry.backend.capabilities
            and (fresh or self._is_old(health.get(entry.row.id, AgentHealth()).checked_at))
            and (fresh or self._is_old(self._tried.get(entry.row.id)))
        ]

    def _is_old(self, moment: datetime | None) -> bool:
        # Absolute: the time is another machine's, whose clock may be ahead.
        return moment is None or abs(self._clock.now() - moment) >= CHECK_INTERVAL

    async def _check_all(self, due: Sequence[tuple[CatalogueEntry, Backend]]) -> None:
        async with asyncio.TaskGroup() as group:
            checks = [group.create_task(self._check(entry, backend)) for entry, backend in due]
        for (entry, _), check in zip(due, checks, strict=True):
            # Also when the store fails, so that each process checks at most once an interval.
            self._tried[entry.row.id] = self._clock.now()
            await self.observe(entry.row.id, check.result())

    async def _check(self, entry: CatalogueEntry, backend: Backend) -> HealthCheck:
        try:
            async with asyncio.timeout(self._deadline.total_seconds()):
                return _mended(entry, await backend.check())
        except TimeoutError:
            return HealthCheck(status=HealthStatus.UNHEALTHY, error="The check got no answer in time.")
        except AgentApiError as exc:
            return HealthCheck(status=HealthStatus.UNHEALTHY, error=str(exc))
        except Exception as exc:  # noqa: BLE001  # a bug of one backend must not fail the report
            _log.warning("agent_check_failed", extra={"agent": entry.name, "kind": type(exc).__name__})
            return HealthCheck(status=HealthStatus.UNHEALTHY, error="The check failed; the server's log names it.")

    async def _probe_all(self, parts: Iterable[Part]) -> tuple[PartHealth, ...]:
        async with asyncio.TaskGroup() as group:
            probes = [group.create_task(self._probe(part)) for part in parts]
        return tuple(probe.result() for probe in probes)

    async def _probe(self, part: Part) -> PartHealth:
        if part.probe is None:
            return PartHealth(name=part.name, status=HealthStatus.HEALTHY, detail=part.detail)
        begun = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._deadline.total_seconds()):
                remark = await part.probe()
        except TimeoutError:
            return _failed(part, "it got no answer in time")
        except AgentApiError as exc:
            return _failed(part, str(exc))
        latency = timedelta(seconds=self._clock.monotonic() - begun)
        if remark is None:
            return PartHealth(name=part.name, status=HealthStatus.HEALTHY, detail=part.detail, latency=latency)
        return PartHealth(name=part.name, status=part.remarked, detail=f"{part.detail}; {remark}", latency=latency)


def _mended(entry: CatalogueEntry, check: HealthCheck) -> HealthCheck:
    """Return a check that says what mends it where it is about the server's key."""
    if check.fault is None:
        return check
    error = BackendError(check.fault, check.error or "", next_step=check.next_step)
    return replace(check, next_step=Payer(variables=entry.declaration.key_variables).mends(error))


def _failed(part: Part, reason: str) -> PartHealth:
    status = HealthStatus.UNHEALTHY if part.needed else HealthStatus.DEGRADED
    return PartHealth(name=part.name, status=status, detail=f"{part.detail}: {reason}")
