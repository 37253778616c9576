"""Health is measured: real traffic counts, and free checks are rare, concurrent and harmless."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from typing_extensions import override

from agentapi_mcp.base.errors import (
    BackendError,
    BackendFault,
    NotFoundError,
    PermissionDeniedError,
    StoreUnavailableError,
)
from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.core.catalogue.catalogue import Catalogue
from agentapi_mcp.core.catalogue.health import Health, Part, check_of_turn
from agentapi_mcp.core.catalogue.models import AgentDeclaration, AgentHealth, AgentRow, CatalogueFile
from agentapi_mcp.core.catalogue.policy import CataloguePolicy
from agentapi_mcp.core.usage.models import UsageSums
from agentapi_mcp.core.usage.usage import Usage
from agentapi_mcp.presentation.health import health_out
from tests.support.catalogues import (
    ALICE,
    CheckedBackend,
    MemoryCatalogue,
    MemoryHealth,
    MemoryUsage,
    agent_row,
    declared,
)
from tests.support.clocks import ManualClock

SECRET = "sk-or-v1-do-not-tell"  # noqa: S105  # the test looks for it everywhere
DOWN = HealthCheck(status=HealthStatus.UNHEALTHY, error="no answer")


@dataclass
class Party(CheckedBackend):
    """A backend whose check ends when all of the party are being checked."""

    barrier: asyncio.Barrier = field(default_factory=lambda: asyncio.Barrier(1))

    @override
    async def check(self) -> HealthCheck:
        """Wait for the others."""
        await self.barrier.wait()
        return await super().check()


class Silent(CheckedBackend):
    """A backend whose check never ends."""

    @override
    async def check(self) -> HealthCheck:
        """Wait for nothing."""
        self.checks += 1
        await asyncio.Event().wait()
        raise AssertionError


@dataclass
class Failing(CheckedBackend):
    """A backend whose check raises."""

    error: Exception = field(default_factory=RuntimeError)

    @override
    async def check(self) -> HealthCheck:
        """Fail."""
        self.checks += 1
        raise self.error


class DownStore(MemoryHealth):
    """A database that does not answer."""

    @override
    async def all_(self) -> Mapping[AgentId, AgentHealth]:
        """Fail."""
        raise StoreUnavailableError("The database does not answer.")

    @override
    async def record(self, agent_id: AgentId, check: HealthCheck) -> AgentHealth:
        """Fail."""
        del agent_id, check
        raise StoreUnavailableError("The database does not answer.")


@dataclass
class Scene:
    """Agents with the backends that a test gives them."""

    backends: dict[str, CheckedBackend]
    parts: tuple[Part, ...] = ()
    store: MemoryHealth | None = None
    missing: dict[str, str] = field(default_factory=dict[str, str])
    clock: ManualClock = field(default_factory=ManualClock)
    deadline: timedelta = timedelta(seconds=5)
    usage: MemoryUsage = field(default_factory=MemoryUsage)

    def __post_init__(self) -> None:
        self.rows: dict[str, AgentRow] = {name: agent_row(name) for name in self.backends}
        self.health_store = self.store or MemoryHealth(self.clock)
        self.health = self.process()

    def process(self) -> Health:
        """Start another process on the same database."""
        file = CatalogueFile(tuple(self._declare(name) for name in self.backends), "sha")
        catalogue = Catalogue(
            store=MemoryCatalogue(tuple(self.rows.values())),
            file=file,
            build=lambda declaration: self.backends[declaration.name],
            clock=self.clock,
        )
        return Health(
            policy=CataloguePolicy(catalogue),
            store=self.health_store,
            clock=self.clock,
            parts=self.parts,
            deadline=self.deadline,
            usage=Usage(self.usage, self.clock),
        )

    def _declare(self, name: str) -> AgentDeclaration:
        lacks = (self.missing[name],) if name in self.missing else ()
        return replace(declared(name), missing=lacks)

    async def statuses(self) -> dict[str, HealthStatus]:
        """Report, and keep the statuses."""
        return {view.name: view.health.status for view in (await self.health.report(ALICE)).agents}


async def test_going_on_being_well_is_written_now_and_then_and_a_change_at_once() -> None:
    scene = Scene({"droid": CheckedBackend()})
    agent, health = scene.rows["droid"].id, scene.health
    well, began = HealthCheck(status=HealthStatus.HEALTHY), scene.clock.now()
    told = list[tuple[timedelta | None, int]]()
    for seconds, outcome in ((0, well), (2, well), (2, DOWN), (0, DOWN), (1, well), (4, well), (1, well)):
        scene.clock.advance(timedelta(seconds=seconds))
        await health.observe(agent, outcome)
        known = scene.health_store.known[agent]
        told.append((known.checked_at and known.checked_at - began, known.consecutive_failures))
    times = [(at.total_seconds() if at is not None else None, failures) for at, failures in told]
    assert times == [(0, 0), (0, 0), (4, 1), (4, 2), (5, 0), (5, 0), (10, 0)]


async def test_an_agent_is_checked_at_most_once_a_minute() -> None:
    backend = CheckedBackend()
    scene = Scene({"a": backend})
    assert await scene.statuses() == {"a": HealthStatus.HEALTHY}
    scene.clock.advance(timedelta(seconds=59))
    await scene.statuses()
    assert backend.checks == 1
    scene.clock.advance(timedelta(seconds=1))
    await scene.statuses()
    assert backend.checks == 2


async def test_processes_share_their_checks() -> None:
    backend = CheckedBackend()
    scene = Scene({"a": backend})
    await scene.health.report(ALICE)
    report = await scene.process().report(ALICE)
    assert report.agents[0].health.status is HealthStatus.HEALTHY
    assert backend.checks == 1


async def test_callers_who_ask_together_cause_one_check_and_see_it() -> None:
    backend = CheckedBackend()
    scene = Scene({"a": backend})
    async with asyncio.TaskGroup() as group:
        reports = [group.create_task(scene.health.report(ALICE)) for _ in range(5)]
    assert {report.result().agents[0].health.status for report in reports} == {HealthStatus.HEALTHY}
    assert backend.checks == 1


async def test_real_traffic_spares_a_check() -> None:
    backend = CheckedBackend()
    scene = Scene({"a": backend})
    await scene.health.observe(scene.rows["a"].id, DOWN)
    assert await scene.statuses() == {"a": HealthStatus.DEGRADED}
    assert backend.checks == 0


async def test_failures_of_traffic_add_up_and_one_answer_heals() -> None:
    scene = Scene({"a": CheckedBackend(capabilities=frozenset())})
    assert await scene.statuses() == {"a": HealthStatus.UNKNOWN}
    for expected in (HealthStatus.DEGRADED, HealthStatus.DEGRADED, HealthStatus.UNHEALTHY):
        await scene.health.observe(scene.rows["a"].id, check_of_turn(BackendFault.UPSTREAM))
        assert await scene.statuses() == {"a": expected}
    await scene.health.observe(scene.rows["a"].id, check_of_turn(None))
    assert await scene.statuses() == {"a": HealthStatus.HEALTHY}


async def test_an_agent_without_a_free_check_is_judged_by_traffic_alone() -> None:
    backend = CheckedBackend(capabilities=frozenset())
    scene = Scene({"a": backend})
    await scene.statuses()
    scene.clock.advance(timedelta(hours=1))
    await scene.statuses()
    assert backend.checks == 0


@pytest.mark.parametrize(
    "fault",
    [BackendFault.BAD_REQUEST, BackendFault.CONTEXT_LENGTH, BackendFault.CONTENT_POLICY, BackendFault.CANCELLED],
)
async def test_what_is_not_the_agents_fault_does_not_count(fault: BackendFault) -> None:
    scene = Scene({"a": CheckedBackend(capabilities=frozenset())})
    await scene.health.observe(scene.rows["a"].id, check_of_turn(fault))
    assert await scene.statuses() == {"a": HealthStatus.UNKNOWN}


async def test_a_check_that_cannot_tell_is_not_repeated_at_once() -> None:
    backend = CheckedBackend(outcome=HealthCheck(status=HealthStatus.UNKNOWN))
    scene = Scene({"a": backend})
    assert await scene.statuses() == {"a": HealthStatus.UNKNOWN}
    assert await scene.statuses() == {"a": HealthStatus.UNKNOWN}
    assert backend.checks == 1


async def test_an_agent_that_lacks_something_or_is_off_is_not_checked() -> None:
    lacking, off = CheckedBackend(), CheckedBackend()
    scene = Scene({"lacking": lacking, "off": off}, missing={"lacking": "KEY is not set"})
    scene.rows["off"] = replace(scene.rows["off"], enabled=False)
    scene.health = scene.process()
    await scene.health.observe(scene.rows["lacking"].id, DOWN)  # while it was set up
    assert (await scene.health.report(ALICE, "lacking")).agents[0].health.last_error is None
    assert await scene.statuses() == {"lacking": HealthStatus.NOT_CONFIGURED, "off": HealthStatus.UNKNOWN}
    assert lacking.checks + off.checks == 0


async def test_checks_run_at_the_same_time() -> None:
    barrier = asyncio.Barrier(3)
    scene = Scene({name: Party(barrier=barrier) for name in "abc"})
    async with asyncio.timeout(25):
        assert set((await scene.statuses()).values()) == {HealthStatus.HEALTHY}


async def test_a_check_that_never_ends_fails_alone() -> None:
    scene = Scene({"a": Silent(), "b": CheckedBackend()}, deadline=timedelta(milliseconds=20))
    report = await scene.health.report(ALICE)
    assert [view.health.status for view in report.agents] == [HealthStatus.DEGRADED, HealthStatus.HEALTHY]
    assert report.agents[0].health.last_error == "The check got no answer in time."


async def test_a_check_that_raises_fails_alone_and_tells_no_foreign_text(caplog: pytest.LogCaptureFixture) -> None:
    known = BackendError(BackendFault.AUTH, "The key was refused.")
    scene = Scene({"a": Failing(error=known), "b": Failing(error=RuntimeError(SECRET)), "c": CheckedBackend()})
    with caplog.at_level(logging.DEBUG):
        report = await scene.health.report(ALICE)
    assert [view.health.status for view in report.agents] == [
        HealthStatus.DEGRADED,
        HealthStatus.DEGRADED,
        HealthStatus.HEALTHY,
    ]
    assert report.agents[0].health.last_error == "The key was refused."
    assert SECRET not in repr(report)
    assert "agent_check_failed" in caplog.text
    assert SECRET not in caplog.text


async def test_the_report_of_one_agent_checks_it_alone() -> None:
    one, other = CheckedBackend(), CheckedBackend()
    scene = Scene({"one": one, "other": other})
    report = await scene.health.report(ALICE, "one")
    assert [view.name for view in report.agents] == ["one"]
    assert (one.checks, other.checks) == (1, 0)
    with pytest.raises(NotFoundError, match="there are: one, other"):
        await scene.health.report(ALICE, "nonesuch")


async def test_an_error_lists_twenty_agents() -> None:
    scene = Scene({f"agent-{n:02}": CheckedBackend() for n in range(21)})
    with pytest.raises(NotFoundError, match=r"agent-19, …\.$"):
        await scene.health.report(ALICE, "nonesuch")


async def test_usage_stands_beside_health() -> None:
    scene = Scene({"a": CheckedBackend()})
    scene.usage.of_agents["a"] = UsageSums(turns=7, errors=1)
    (view,) = (await scene.health.report(ALICE)).agents
    assert view.usage == scene.usage.of_agents["a"]


async def test_parts_are_measured_by_asking_them() -> None:
    clock = ManualClock()

    async def answer() -> None:
        clock.advance(timedelta(milliseconds=3))

    async def refuse() -> None:
        raise StoreUnavailableError("The database does not answer.")

    async def hang() -> None:
        await asyncio.Event().wait()

    scene = Scene(
        {},
        parts=(
            Part("postgres", "embedded", answer, needed=True),
            Part("replica", "remote", refuse, needed=True),
            Part("far", "remote", hang, needed=True),
            Part("cache", "in process"),
        ),
        clock=clock,
        deadline=timedelta(milliseconds=20),
    )
    parts = (await scene.health.report(ALICE)).parts
    assert [(part.name, part.status, part.detail, part.latency) for part in parts] == [
        ("postgres", HealthStatus.HEALTHY, "embedded", timedelta(milliseconds=3)),
        ("replica", HealthStatus.UNHEALTHY, "remote: The database does not answer.", None),
        ("far", HealthStatus.UNHEALTHY, "remote: it got no answer in time", None),
        ("cache", HealthStatus.HEALTHY, "in process", None),
    ]


@pytest.mark.parametrize("status", [HealthStatus.HEALTHY, HealthStatus.DEGRADED])
async def test_a_remark_gives_a_part_the_status_that_was_agreed_and_leaves_the_server_ready(
    status: HealthStatus,
) -> None:
    async def remark() -> str:
        return "look at it"

    async def answer() -> None:
        pass

    parts = (Part("a", "here", remark, needed=False, remarked=status), Part("b", "there", answer, remarked=status))
    scene = Scene({}, parts=parts)
    report = await scene.health.report(ALICE)
    assert [(part.status, part.detail) for part in report.parts] == [
        (status, "here; look at it"),
        (HealthStatus.HEALTHY, "there"),
    ]
    assert health_out(report).status == status
    assert await scene.health.is_ready()


async def test_a_part_that_is_not_needed_degrades_the_server_and_is_a_warning() -> None:
    async def refuse() -> None:
        raise StoreUnavailableError("Redis does not answer.")

    async def hang() -> None:
        await asyncio.Event().wait()

    parts = (Part("redis", "by URL", refuse), Part("jobs", "here", hang), Part("cache", "here"))
    scene = Scene({}, parts=parts, deadline=timedelta(milliseconds=20))
    report = await scene.health.report(ALICE)
    assert [part.status for part in report.parts] == [
        HealthStatus.DEGRADED,
        HealthStatus.DEGRADED,
        HealthStatus.HEALTHY,
    ]
    assert health_out(report).status == HealthStatus.DEGRADED
    assert await scene.health.is_ready()
    assert await Scene({}, parts=parts).health.warnings(timedelta(milliseconds=20)) == ("redis",)


async def test_the_server_is_as_well_as_the_worst_of_its_parts() -> None:
    async def refuse() -> None:
        raise StoreUnavailableError("The database does not answer.")

    async def remark() -> str:
        return "look at it"

    parts = (
        Part("a", "x", remark, remarked=HealthStatus.DEGRADED),
        Part("b", "x", refuse, needed=True),
        Part("c", "x"),
    )
    for worst, some in ((HealthStatus.UNHEALTHY, parts), (HealthStatus.DEGRADED, (parts[0], parts[2]))):
        assert health_out(await Scene({}, parts=some).health.report(ALICE)).status == worst


async def test_what_has_answered_callers_lately_is_ready_without_a_probe() -> None:
    async def refuse() -> None:
        raise StoreUnavailableError("The database does not answer.")

    for lately in (True, False):
        parts = (Part("postgres", "remote", refuse, needed=True, has_answered_lately=lambda lately=lately: lately),)
        assert await Scene({}, parts=parts).health.is_ready() is lately


async def test_a_database_that_is_down_is_in_the_report_and_breaks_no_turn() -> None:
    async def refuse() -> None:
        raise StoreUnavailableError("The database does not answer.")

    clock = ManualClock()
    scene = Scene(
        {"a": CheckedBackend()}, parts=(Part("postgres", "remote", refuse, needed=True),), store=DownStore(clock)
    )
    report = await scene.health.report(ALICE)
    assert [part.status for part in report.parts] == [HealthStatus.UNHEALTHY]
    assert report.agents == ()
    await scene.health.observe(scene.rows["a"].id, DOWN)
    assert scene.health_store.known == {}


async def test_who_may_not_read_is_refused() -> None:
    with pytest.raises(PermissionDeniedError):
        await Scene({}).health.report(replace(ALICE, scopes=frozenset()))
