"""What callers see of a turn that another process runs: its text once and in order, its activity, and its end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import LiteralString, cast
from uuid import UUID

import pytest
from typing_extensions import override

from agentapi_mcp.base.ids import AgentId, TurnId, new_id
from agentapi_mcp.core.backends.events import TextDelta, ThoughtDelta, ToolActivity, ToolState
from agentapi_mcp.core.conversations.models import AcceptedTurn, EndReason, Turn, TurnEnded, TurnEvent, TurnStatus
from agentapi_mcp.core.conversations.ports import TurnEvents, TurnPorts
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.conversations.turn_follower import REPORT_AT_LEAST_EVERY, Progress, ProgressReport, TurnFollower
from agentapi_mcp.core.conversations.turn_runner import TurnRunner
from agentapi_mcp.core.conversations.turn_work import TurnWork
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Shares
from agentapi_mcp.core.signals import Signal, SignalKind, Signals
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.support.clocks import ManualClock
from tests.support.new_turns import ending, new_turn

FOREVER = 1e9


@dataclass
class Line(TurnEvents, Signals):
    """What the other process tells, when the test says so."""

    listeners: dict[TurnId, Callable[[int, TurnEvent], None]] = field(
        default_factory=dict[TurnId, Callable[[int, TurnEvent], None]]
    )
    subscribers: list[Callable[[Signal], None]] = field(default_factory=list[Callable[[Signal], None]])

    @override
    def publish(self, turn_id: TurnId, event: TurnEvent, offset: int) -> None:
        self.listeners[turn_id](offset, event)

    @override
    def follow(self, turn_id: TurnId) -> AbstractAsyncContextManager[AsyncIterator[TurnEvent]]:
        raise NotImplementedError

    @override
    def listen(self, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> Callable[[], None]:
        self.listeners[turn_id] = listener
        return lambda: self.listeners.pop(turn_id, None) and None

    @override
    def subscribe(self, listener: Callable[[Signal], None]) -> Callable[[], None]:
        self.subscribers.append(listener)
        return lambda: self.subscribers.remove(listener)

    @override
    def send(self, signal: Signal, *, hurry: bool = False) -> None:
        for subscriber in tuple(self.subscribers):
            subscriber(signal)


@dataclass
class Scene:
    """A turn that another process runs, and a follower of it."""

    database: Database
    principal: Principal
    owner: UUID
    turn: Turn
    line: Line
    clock: ManualClock
    turns: PostgresTurns
    follower: TurnFollower
    steps: "list[Callable[[], object]]" = field(default_factory=list["Callable[[], object]"])
    reports: list[Progress] = field(default_factory=list[Progress])

    def tell(self, offset: int, event: TurnEvent) -> None:
        """Let the other process tell an event, as it does at once."""
        self.line.publish(self.turn.id, event, offset)

    async def save(self, text: str) -> None:
        """Let the other process store the text so far, as it does every two seconds."""
        assert await self.turns.save_partial(self.principal, self.owner, self.turn.id, text)

    async def end(self, reply: str) -> None:
        """Let the other process store the end, without a word."""
        ended = replace(self.turn, status=TurnStatus.COMPLETED, reply=reply, end_reason=EndReason.ANSWERED)
        assert await self.turns.finish(self.principal, ended, ending(self.owner)) is not None

    def signal_end(self, kind: SignalKind = SignalKind.ENDED, turn_id: TurnId | None = None) -> None:
        """Let the other process say that it has."""
        # An object of its own, as it is read from a notification.
        self.line.send(Signal(kind, turn_id=TurnId(UUID(str(turn_id or self.turn.id)))))

    async def read(self, column: LiteralString) -> datetime | None:
        """Read what is noted of the callers."""
        async with self.database.as_system("test") as connection:
            statement = f"SELECT {column} FROM agentapi.turns WHERE id = $1"  # noqa: S608  # a literal of the test
            return await connection.fetchval(statement, self.turn.id)

    def events(self) -> AsyncGenerator[TurnEvent]:
        """Follow the turn."""
        return self.follower.follow_elsewhere(self.principal, self.turn)

    async def wait(self, *, until: float = FOREVER, within: float = 25) -> Turn:
        """Wait for its end, with reports."""
        return await self.follower.wait_elsewhere(
            self.principal, self.turn, until, ProgressReport(self._report), self.clock.monotonic(), within=within
        )

    async def _report(self, progress: Progress) -> None:
        """Note what is reported; what the test has planned happens then, when the next one is due."""
        self.reports.append(progress)
        if self.steps:
            self.clock.advance(REPORT_AT_LEAST_EVERY)
            self.steps.pop(0)()


@pytest.fixture
async def scene(database: Database) -> Scene:
    """Begin the turn."""
    async with database.as_system("add an agent") as connection:
        agent = AgentId(
            await connection.fetchval("INSERT INTO public.agents (name, type) VALUES ('guide', 'custom') RETURNING id")
        )
    profiles, turns = PostgresProfiles(database), PostgresTurns(database)
    principal = await profiles.local_principal()
    new = new_turn(agent, "hello")
    accepted = await turns.begin(principal, new)
    assert isinstance(accepted, AcceptedTurn)
    line, clock = Line(), ManualClock(seconds=1000)
    sessions, shares = PostgresSessions(database), Shares(clock)
    ports = TurnPorts(
        turns=turns, sessions=sessions, events=line, signals=line, clock=clock, shares=shares, profiles=profiles
    )
    runner = TurnRunner(ports, TurnRunnerOptions(), cast("TurnWork", None), owner=new_id())  # which runs nothing
    follower = TurnFollower(ports, runner)
    return Scene(database, principal, new.lease_owner, accepted.turn, line, clock, turns, follower)


# --- the stream of its text


async def test_text_comes_once_and_in_order_however_it_arrives(scene: Scene) -> None:
    await scene.save("one ")
    async with aclosing(scene.events()) as events:
        assert await anext(events) == TextDelta("one ")
        scene.tell(4, TextDelta("two "))
        assert await anext(events) == TextDelta("two ")
        scene.tell(0, TextDelta("one "))  # known from the store
        scene.tell(4, TextDelta("two "))  # known from the event before
        scene.tell(4, TextDelta("two three "))  # known in part
        assert await anext(events) == TextDelta("three ")
        scene.tell(19, TextDelta("five"))  # with the one before it lost
        scene.tell(14, TextDelta("four "))
        assert await anext(events) == TextDelta("four ")
        await scene.end("one two three four five")
        scene.signal_end()
        assert await anext(events) == TextDelta("five")
        assert await anext(events) == TurnEnded(scene.clock.now())
        assert [event async for event in events] == []


async def test_thoughts_and_tools_are_told_and_its_text_is_not_told_twice(scene: Scene) -> None:
    said = (ThoughtDelta("hm"), ToolActivity("search", ToolState.STARTED), ToolActivity("search", ToolState.COMPLETED))
    async with aclosing(scene.events()) as events:
        following = asyncio.ensure_future(anext(events))
        await listened(scene)
        for event in said:
            scene.tell(0, event)
        scene.tell(0, TextDelta("found"))
        assert [await following, *[await anext(events) for _ in range(3)]] == [*said, TextDelta("found")]


async def test_stored_text_is_read_every_second_where_no_events_come(scene: Scene) -> None:
    async with aclosing(scene.events()) as events:
        following = asyncio.ensure_future(anext(events))
        await listened(scene)
        noted = await scene.read("followed_at")
        await scene.save("so far")
        scene.tell(0, ThoughtDelta("hm"))
        assert await following == ThoughtDelta("hm")
        scene.clock.advance(timedelta(seconds=0.9))
        scene.tell(0, ThoughtDelta("hm"))
        assert await anext(events) == ThoughtDelta("hm")
        assert await scene.read("followed_at") == noted
        scene.clock.advance(timedelta(seconds=0.1))
        assert await anext(events) == TextDelta("so far")
        assert await scene.read("followed_at") != noted


async def test_text_that_was_told_is_not_taken_back_by_older_text_of_the_store(scene: Scene) -> None:
    await scene.save("one ")
    async with aclosing(scene.events()) as events:
        assert await anext(events) == TextDelta("one ")
        scene.tell(4, TextDelta("two "))
        assert await anext(events) == TextDelta("two ")
        scene.clock.advance(timedelta(seconds=1))
        following = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(25):
            first = await scene.read("followed_at")
            while await scene.read("followed_at") == first:
                pass
        scene.tell(8, TextDelta("three"))
        assert await following == TextDelta("three")


async def test_a_turn_that_has_ended_is_told_as_a_whole(scene: Scene) -> None:
    await scene.end("all")
    assert [event async for event in scene.events()] == [TextDelta("all"), TurnEnded(scene.clock.now())]
    assert (scene.line.listeners, scene.line.subscribers) == ({}, [])
    assert await scene.read("followed_at") is None


# --- a wait for its end


async def test_progress_tells_how_long_the_text_is_its_end_and_what_the_agent_does(scene: Scene) -> None:
    def tool(state: ToolState) -> ToolActivity:
        return ToolActivity("search", state)

    text = "0123456789" * 25
    planned: list[tuple[TurnEvent, str, str | None]] = [
        (ThoughtDelta("hm"), text, "thinking"),
        (tool(ToolState.STARTED), text, "using search"),
        (tool(ToolState.COMPLETED), text, None),
        (tool(ToolState.STARTED), text, "using search"),
        (tool(ToolState.FAILED), text, None),
        (ThoughtDelta("hm"), text, "thinking"),
        (TextDelta(text[:-1]), text, "thinking"),
        (TextDelta(text), text, "thinking"),
        (TextDelta(f"{text}a"), f"{text}a", None),
    ]
    scene.steps = [partial(scene.tell, 0, event) for event, _, _ in planned]
    await scene.save(text)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(scene.wait())
        await reported(scene, 1 + len(planned))
        await scene.end(f"{text}a")
        scene.signal_end()
        assert (await waiting).status is TurnStatus.COMPLETED
    seconds = REPORT_AT_LEAST_EVERY.total_seconds()
    assert [(len(each.text), each.tail, each.activity, each.elapsed.total_seconds()) for each in scene.reports] == [
        (len(said), said[-200:], activity, number * seconds)
        for number, (said, activity) in enumerate([(text, None), *((said, doing) for _, said, doing in planned)])
    ]


async def test_a_wait_ends_with_the_turn_and_not_with_what_else_is_signalled(scene: Scene) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(scene.wait())
        await listened(scene)
        noted = await scene.read("followed_at")
        await scene.end("all")
        for other in (new_id(), UUID(int=0)):
            scene.signal_end(turn_id=TurnId(other))
        for kind in (SignalKind.CANCEL, SignalKind.SESSION_CHANGED):
            scene.signal_end(kind=kind)
        scene.tell(0, TextDelta("al"))
        await reported(scene, 1)
        assert not waiting.done()
        scene.signal_end()
        told = await waiting
    assert (told.status, told.reply) == (TurnStatus.COMPLETED, "all")
    assert [len(report.text) for report in scene.reports] == [2]
    assert await scene.read("followed_at") == noted
    assert await scene.read("answered_running_at") is None


async def test_an_end_that_nobody_signals_is_found_within_a_second(scene: Scene) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(scene.wait())
        await listened(scene)
        await scene.end("all")
        scene.clock.advance(timedelta(seconds=1))
        assert (await waiting).reply == "all"


async def test_who_waits_no_longer_is_told_what_is_known_and_expected_back(scene: Scene) -> None:
    await scene.save("so far")
    told = await scene.wait(until=scene.clock.monotonic())
    assert (told.status, told.reply) == (TurnStatus.RUNNING, "so far")
    assert await scene.read("answered_running_at") is not None
    assert scene.reports == []


async def test_a_wait_is_over_with_the_time_of_its_call_whatever_the_other_process_does(scene: Scene) -> None:
    told = await scene.wait(within=0.2)
    assert told.status is TurnStatus.RUNNING
    assert (scene.line.listeners, scene.line.subscribers) == ({}, [])


async def test_a_call_without_time_is_told_what_was_known_before(scene: Scene) -> None:
    await scene.end("all")
    assert await scene.wait(within=0) == scene.turn


async def listened(scene: Scene) -> None:
    """Wait until the follower listens to the other process."""
    async with asyncio.timeout(25):
        while scene.turn.id not in scene.line.listeners:
            await scene.read("followed_at")


async def reported(scene: Scene, times: int) -> None:
    """Wait until this many reports were made."""
    async with asyncio.timeout(25):
        while len(scene.reports) < times:
            await scene.read("followed_at")
