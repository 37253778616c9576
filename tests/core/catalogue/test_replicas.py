"""Replicas that run with different configurations are noticed, and told once."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

import pytest
from typing_extensions import override

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.catalogue.models import Replica
from agentapi_mcp.core.catalogue.ports import ReplicaStore
from agentapi_mcp.core.catalogue.replicas import Replicas
from agentapi_mcp.testing.waiting import expect_soon
from tests.support.clocks import ManualClock

ONE, TWO = "1" * 64, "2" * 64


@dataclass
class Notes(ReplicaStore):
    """The replicas that are up, in memory; `others` are those that nobody notes."""

    others: list[Replica] = field(default_factory=list[Replica])
    noted: list[Replica] = field(default_factory=list[Replica])
    left: list[UUID] = field(default_factory=list[UUID])
    is_down: bool = False

    @override
    async def note(self, replica: Replica, alive_within: timedelta) -> Sequence[Replica]:
        self.noted.append(replica)
        if self.is_down:
            raise StoreUnavailableError("The database does not answer.")
        return self.others

    @override
    async def leave(self, replica_id: UUID) -> None:
        self.left.append(replica_id)


class StoppedClock(ManualClock):
    """Time that never passes by itself, but tells for how long somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = asyncio.Queue[timedelta]()
        self.passed = asyncio.Semaphore(0)

    @override
    async def sleep(self, duration: timedelta) -> None:
        """Wait for the test."""
        self.waits.put_nowait(duration)
        await self.passed.acquire()


def replica(configuration: str = ONE, version: str = "0.1.0") -> Replica:
    """Make one."""
    return Replica(id=new_id(), version=version, configuration=configuration)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ([], None),
        ([replica(), replica()], None),
        ([replica(), replica(TWO)], "another configuration is in use on 1 of 2 other replicas"),
        ([replica(TWO, "0.2.0")], "the versions 0.1.0, 0.2.0 run at once"),
    ],
)
async def test_other_configurations_and_versions_are_remarked(others: list[Replica], says: str | None) -> None:
    replicas = Replicas(Notes(others), ManualClock(), replica())
    await replicas.compare()
    remark = await replicas.remark()
    assert (remark is None) == (says is None)
    assert (says or "") in (remark or "")
    # Another version may have other settings, so its configuration says nothing.
    assert ("another configuration" in (remark or "")) is ("another configuration" in (says or ""))


async def test_a_difference_is_logged_once_and_forgotten_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes([replica(TWO)])
    replicas = Replicas(notes, ManualClock(), replica())
    for _ in range(3):
        await replicas.compare()
    assert [record.message for record in caplog.records] == ["replicas_differ"]
    notes.others = []
    await replicas.compare()
    assert await replicas.remark() is None


async def test_an_outage_is_logged_once_and_leaves_what_is_known(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes([replica(TWO)])
    replicas = Replicas(notes, ManualClock(), replica())
    await replicas.compare()
    remark = await replicas.remark()
    for is_down in (True, True, False, True):
        notes.is_down = is_down
        await replicas.compare()
    assert await replicas.remark() == remark
    assert [record.message for record in caplog.records] == ["replicas_differ", *["replicas_not_compared"] * 2]


async def test_a_replica_is_noted_once_a_minute_and_after_a_reload_and_leaves_at_the_end() -> None:
    notes, clock, own = Notes(), StoppedClock(), replica()
    async with Replicas(notes, clock, own).open() as replicas:
        assert await clock.waits.get() == timedelta(minutes=1)
        assert notes.noted == [own]
        clock.passed.release()
        await clock.waits.get()
        assert notes.noted == [own, own]
        replicas.configure(TWO)
        await expect_soon(clock.waits.get(), "the new configuration is noted")
        assert notes.noted == [own, own, replace(own, configuration=TWO)]
    assert notes.left == [own.id]


async def test_the_others_have_a_minute_to_read_the_change_that_this_replica_has_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes, clock = Notes([replica(ONE)]), StoppedClock()
    async with Replicas(notes, clock, replica(ONE)).open() as replicas:
        await clock.waits.get()
        replicas.configure(TWO)
        await expect_soon(clock.waits.get(), "the new configuration is noted")
        assert (notes.noted[-1].configuration, await replicas.remark(), caplog.records) == (TWO, None, [])
        clock.passed.release()
        await expect_soon(clock.waits.get(), "the others are compared")
        assert "another configuration" in str(await replicas.remark())
