"""A turn is stopped within seconds of the membership of its user, and no other one by the look at members."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from typing_extensions import override

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.base.ids import OrgId, TurnId, UserId, new_id
from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.access.models import MembershipStatus
from agentapi_mcp.core.access.ports import ProfileStore
from agentapi_mcp.core.conversations.answer_builder import AnswerBuilder
from agentapi_mcp.core.conversations.membership_watch import MembershipWatch
from agentapi_mcp.core.conversations.models import EndReason, TurnStatus
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.conversations.running_turn import RunningTurn
from agentapi_mcp.core.identity.principals import Principal
from tests.support.clocks import SteppedClock
from tests.support.worlds import LONG, NOW, SLOW, World, asks, begun

Member = tuple[UserId, OrgId]
ANN, BO = (Principal(UserId(new_id()), OrgId(new_id())) for _ in range(2))


@dataclass
class Profiles(ProfileStore):
    """Who may use their organisation; `troubles` come first."""

    lost: dict[Member, MembershipStatus] = field(default_factory=dict[Member, MembershipStatus])
    troubles: list[Exception | None] = field(default_factory=list[Exception | None])
    asked: list[set[Member]] = field(default_factory=list[set[Member]])

    @override
    async def membership_statuses(self, members: Collection[Member]) -> Mapping[Member, MembershipStatus]:
        self.asked.append(set(members))
        if self.troubles:
            trouble = self.troubles.pop(0)
            if trouble is None:
                await asyncio.Event().wait()
            else:
                raise trouble
        return {each: self.lost.get(each, MembershipStatus.ACTIVE) for each in members}


@dataclass
class Watched:
    """A watch over some turns, which looks when the test moves its clock."""

    clock: SteppedClock = field(default_factory=SteppedClock)
    profiles: Profiles = field(default_factory=Profiles)
    busy: asyncio.Event = field(default_factory=asyncio.Event)
    runs: dict[TurnId, RunningTurn] = field(default_factory=dict[TurnId, RunningTurn])
    stopped: list[RunningTurn] = field(default_factory=list[RunningTurn])

    def begin(self, principal: Principal) -> RunningTurn:
        """Add a turn that runs."""
        job: Any = _Job(principal, TurnId(new_id()))
        run = RunningTurn(job, AnswerBuilder(self.clock, lambda _: Prices(), may_go_on_billing=False))
        self.runs[TurnId(new_id())] = run
        self.busy.set()
        return run

    def stop(self, run: RunningTurn, reason: EndReason) -> bool:
        """Note which are stopped, and why."""
        assert reason is EndReason.ACCESS_REVOKED
        self.stopped.append(run)
        return True

    def stopped_event(self, job: object, status: MembershipStatus) -> object:
        """Stand for the event of the audit log."""
        return job, status

    async def look(self) -> None:
        """Let the watch look once."""
        self.clock.end_wait()
        await self.clock.next_wait()


class _Job:
    """What the watch reads of a turn's job."""

    def __init__(self, principal: Principal, turn_id: TurnId) -> None:
        self.principal = principal
        self.accepted = self.turn = self
        self.id = turn_id


@asynccontextmanager
async def open_watch(within: timedelta = LONG) -> AsyncGenerator[Watched]:
    watched = Watched()
    ports: Any = watched
    options = TurnRunnerOptions(check_members_within=within)
    watch = MembershipWatch(ports, options, ports, watched.runs, stop=watched.stop)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch.run(watched.busy))
        yield watched
        task.cancel()


def test_a_look_every_few_seconds_ends_turns_within_half_a_minute() -> None:
    options = TurnRunnerOptions()
    assert options.check_members_every + options.check_members_within <= timedelta(seconds=10)


async def test_it_asks_once_for_the_users_of_all_turns_that_run_and_only_while_some_do() -> None:
    async with open_watch() as watched:
        await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0)
        assert watched.clock.waits.empty()
        first, _, ended = watched.begin(ANN), watched.begin(ANN), watched.begin(BO)
        ended.answered.set()
        assert await watched.clock.next_wait() == TurnRunnerOptions().check_members_every
        await watched.look()
        assert watched.profiles.asked == [{(ANN.user_id, ANN.org_id)}]
        assert first.events == []


@pytest.mark.parametrize("status", [each for each in MembershipStatus if each is not MembershipStatus.ACTIVE])
async def test_it_stops_the_turns_of_who_may_not_go_on_with_an_event_that_says_why(status: MembershipStatus) -> None:
    async with open_watch() as watched:
        ann, bo = watched.begin(ANN), watched.begin(BO)
        await watched.clock.next_wait()
        await watched.look()
        assert watched.stopped == []
        watched.profiles.lost[BO.user_id, BO.org_id] = status
        await watched.look()
        assert watched.stopped == [bo]
        assert bo.events == [(bo.job, status)]
        assert ann.events == []


@pytest.mark.parametrize("trouble", [StoreUnavailableError("away"), ValueError("a mistake"), None])
async def test_a_look_that_fails_or_hangs_stops_nobody_and_the_next_one_counts(
    trouble: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_watch(timedelta(milliseconds=1) if trouble is None else LONG) as watched:
        watched.profiles.troubles = [trouble, trouble]
        watched.profiles.lost[BO.user_id, BO.org_id] = MembershipStatus.SUSPENDED
        bo = watched.begin(BO)
        await watched.clock.next_wait()
        with caplog.at_level(logging.WARNING):
            await watched.look()
            await watched.look()
        assert watched.stopped == []
        assert [record.getMessage() for record in caplog.records] == ["members_not_checked"]
        await watched.look()
        assert watched.stopped == [bo]


async def test_a_caller_who_waits_is_answered_with_what_was_said_and_what_it_cost(world: World) -> None:
    server = await world.program(check_members_every=timedelta(milliseconds=20))
    who = server.principal
    async with begun(server, asks(SLOW)) as waiting:
        world.steps.release(1)
        await world.until("partial_text <> '' OR asked_at IS NOT NULL")
        await world.owner.execute("DELETE FROM public.organization_members WHERE user_id = $1", who.user_id)
        ended = await waiting
    assert (ended.status, ended.end_reason) == (TurnStatus.CANCELLED, EndReason.ACCESS_REVOKED)
    assert ended.saved
    assert ended.bill.latency is not None
    audited = "SELECT array_agg(action ORDER BY action) FROM agentapi.audit_events WHERE target_id = $1"
    assert await world.owner.fetchval(audited, str(ended.id)) == ["turn_accepted", "turn_ended", "turn_stopped"]


async def test_a_replica_stops_the_turns_that_it_runs_itself(world: World) -> None:
    runs = await world.program(check_members_every=timedelta(milliseconds=20))
    asked_of = await world.program(check_members_every=timedelta(hours=1))
    running = await runs.turns.chat(runs.principal, asks(SLOW), wait=NOW)
    await asked_of.turns.get(asked_of.principal, str(running.id))
    await world.owner.execute("DELETE FROM public.organization_members WHERE user_id = $1", runs.principal.user_id)
    await world.until("id = $1 AND status <> 'running'", running.id)
    ended = await world.owner.fetchval("SELECT end_reason FROM agentapi.turns WHERE id = $1", running.id)
    assert ended == EndReason.ACCESS_REVOKED
