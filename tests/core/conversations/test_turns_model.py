"""Random walks through what can happen to turns, against what must hold afterwards."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr
from typing_extensions import override

from agentapi_mcp.app.services import AppOptions
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import AgentApiError, ConflictError, StoreError
from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Steps
from tests.conftest import DatabaseUrls
from tests.support.peers.openai import OpenAIPeer
from tests.support.turn_model import Ask, Outcomes, Stored, outcomes
from tests.support.wires import Break, Wire, open_wire

T = TypeVar("T")
_log = logging.getLogger(__name__)
OPTIONS = replace(
    TurnRunnerOptions(),
    lease=timedelta(seconds=0.5),
    renew_every=timedelta(seconds=0.1),
    renew_again=timedelta(seconds=0.1),
    stopped_grace=timedelta(0),
    shutdown_grace=timedelta(0),
)
NOW = timedelta(0)
HOUR = timedelta(hours=1)
# For how long each replica lets a turn run on whose caller left for an unclear reason: not at all, or for good.
GRACES = (NOW, timedelta(days=1))
REPLICAS = st.integers(0, 1)
KEYED = 2  # of the three messages, the last one has a key
MESSAGES, KEYLESS = st.integers(0, KEYED), st.integers(0, KEYED - 1)
LOSSES = [Break.BEFORE, Break.AFTER]
DEPARTURES = st.sampled_from(Departure)


@dataclass
class Replica:
    """A process's worth of the program, and its wire to the database; `was_cut` tells that it has lost it once."""

    services: Services
    wire: Wire
    was_cut: bool = False

    def cut(self) -> None:
        """Cut it off from the database."""
        self.was_cut = True
        self.wire.go_down()


@dataclass(frozen=True)
class Call:
    """A caller who waits for a turn through a replica."""

    number: int
    replica: int
    turn_id: UUID
    task: "asyncio.Task[Turn]"


@dataclass
class Fate:
    """What callers did to a turn that runs in this replica.

    `told_running` says that one was told that it runs; `may_stop` that it may end as cancelled, since somebody asked
    for that or all have left; `lost_caller` that one got an error, or left without a way to say so; `left_early` that
    one left elsewhere in a way that ends turns, while others waited: that may be heard after they have left, too.
    """

    owner: int | None = None
    told_running: bool = False
    may_stop: bool = False
    lost_caller: bool = False
    left_early: bool = False


@dataclass
class World:
    """Two replicas on one database, a provider, and what callers have done and been told."""

    urls: DatabaseUrls
    home: Path
    seen: Counter[str]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    steps: Steps = field(default_factory=Steps)
    tag: str = field(default_factory=lambda: uuid4().hex)
    told: list[Turn] = field(default_factory=list[Turn])
    calls: list[Call] = field(default_factory=list[Call])
    fates: defaultdict[UUID, Fate] = field(default_factory=lambda: defaultdict(Fate))
    # How many turns each message may have, and those of which a call ended without saying whether it has one.
    allowed: Counter[int] = field(default_factory=Counter[int])
    unclear: set[int] = field(default_factory=set[int])

    async def open(self) -> None:
        """Bring everything up on a database without turns."""
        self.owner = await asyncpg.connect(self.urls.owner)
        self.stack.push_async_callback(self.owner.close)
        await self.owner.execute("SET row_security = off")
        await self.owner.execute("TRUNCATE public.chat_sessions, agentapi.idempotency_keys CASCADE")
        self.peer = await self.stack.enter_async_context(OpenAIPeer(pace=self.steps))
        self.replicas = [await self._replica(grace) for grace in GRACES]

    async def _replica(self, grace: timedelta) -> Replica:
        options = replace(OPTIONS, abandon_grace=grace)
        wire, url = await self.stack.enter_async_context(open_wire(self.urls.app))
        chosen = Settings(home=self.home / uuid4().hex, database_url=SecretStr(url), pool_size=8)
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": self.peer.openrouter_url}
        app = await self.stack.enter_async_context(open_app(chosen, environ, options=AppOptions(run_options=options)))
        return Replica(await app.services_provider.services(), wire)

    @property
    def any_is_down(self) -> bool:
        """Whether a replica is cut off."""
        return any(replica.wire.is_down for replica in self.replicas)

    @property
    def reachable(self) -> list[int]:
        """The replicas that have the database: the others refuse messages."""
        return [place for place, replica in enumerate(self.replicas) if not replica.wire.is_down]

    # --- sending

    def text(self, number: int) -> str:
        """Write one of the messages; its answer waits for a step before each piece."""
        return f"{self.tag}-{number} [[slow]] [[chunks2]] [[echo]]"

    def request(self, number: int, ask: Ask) -> ChatRequest:
        """Make the request of one of the messages."""
        return ChatRequest(
            message=self.text(number),
            agent="droid",
            idempotency_key=f"{self.tag}-k" if number == KEYED else None,
            retry=ask is Ask.AGAIN,
            new=ask is Ask.ANEW,
        )

    async def turns(self, number: int) -> tuple[datetime, dict[UUID, Stored]]:
        """Read the turns of a message, and the time."""
        rows = [dict(row) for row in await self.owner.fetch(SEEN, self.text(number))]
        now = await self.owner.fetchval("SELECT clock_timestamp()")
        stored = (Stored(**row | {"status": TurnStatus(row["status"])}) for row in rows)  # type: ignore[arg-type]  # as SEEN says
        return now, {turn.id: turn for turn in stored}

    def ask(self, replica: int, number: int, ask: Ask, wait: timedelta) -> "asyncio.Task[Turn]":
        """Send a message in a task of its own."""
        services = self.replicas[replica].services
        return asyncio.ensure_future(services.turns.chat(services.principal, self.request(number, ask), wait=wait))

    async def send(self, replica: int, number: int, ask: Ask, *, waits: bool) -> None:
        """Send a message, and wait for the answer or not."""
        replica = replica if replica in self.reachable else self.reachable[0]
        if not self.may_send(number):
            return
        await self.owner.execute(AGE, self.text(number))
        _, before = await self.turns(number)
        if waits and self.is_stopping(number, before):
            return
        asking = self.ask(replica, number, ask, HOUR if waits else NOW)
        if not waits:
            await asyncio.wait({asking})
        turn_id = await self.placed(replica, number, ask, before, asking)
        if turn_id is not None and waits:
            self.calls.append(Call(number, replica, turn_id, asking))
        elif turn_id is not None:
            assert asking.result().joined or turn_id not in before, "an answer does not say that it joined a turn"
            self.tell(asking.result())

    async def send_and_leave(self, replica: int, number: int, moment: int, how: Departure) -> None:
        """Send a message, and leave at some moment, mostly before it is known which turn answers it."""
        replica = replica if replica in self.reachable else self.reachable[0]
        if not self.may_send(number):
            return
        await self.owner.execute(AGE, self.text(number))
        _, before = await self.turns(number)
        if self.is_stopping(number, before):
            return
        asking = self.ask(replica, number, Ask.PLAINLY, HOUR)
        for _ in range(moment):
            await self.owner.fetchval("SELECT 1")
        asking.cancel(how)
        await asyncio.wait({asking})
        turn_id = await self.placed(replica, number, Ask.PLAINLY, before, asking)
        if turn_id is not None and asking.cancelled():
            await self.left(turn_id, replica, how)
        elif turn_id is not None:
            self.tell(asking.result())

    def may_send(self, number: int) -> bool:
        """Tell whether it can be seen in the database which turn a message gets."""
        # Who waits in another replica than the turn's says so every second, and so does who comes.
        elsewhere = any(call.number == number and call.replica != self.fates[call.turn_id].owner for call in self.calls)
        return not (elsewhere or number in self.unclear)

    def is_stopping(self, number: int, turns: dict[UUID, Stored]) -> bool:
        """Tell whether a turn of a message may end at any time, so that who waits for it asks anew."""
        waited_for = {call.turn_id for call in self.calls if call.number == number}
        waited_for |= {id_ for id_, turn in turns.items() if not turn.status.is_final}
        return any(self.fates[id_].may_stop for id_ in waited_for)

    async def placed(
        self, replica: int, number: int, ask: Ask, before: dict[UUID, Stored], asking: "asyncio.Task[Turn]"
    ) -> UUID | None:
        """Wait until it is known which turn a message gets, and hold it against what it may get; None if none."""
        got: UUID | None = None
        error: BaseException | None = None
        now, after = await self.turns(number)
        async with asyncio.timeout(60):
            while got is None and error is None:
                is_answered = asking.done() and not asking.cancelled()  # before what is read then
                now, after = await self.turns(number)
                if is_answered:
                    error = asking.exception()
                    got = None if error else asking.result().id
                else:
                    got = next((id_ for id_, turn in after.items() if _has_come(before.get(id_), turn)), None)
        known = {id_: turn for id_, turn in after.items() if id_ in before or id_ != got}
        then, since = (outcomes(each.values(), ask, keyed=number == KEYED, until=now) for each in (before, known))
        allowed = then | since
        if got is not None and got in known:
            assert got in allowed.joins, f"{ask}: joined {got} of {before}, then {after}"
            self.seen[f"{ask}: joins one that is {known[got].status}"] += 1
        elif got is not None:
            assert allowed.own, f"{ask}: has its own beside {before}, then {after}"
            self.allowed[number] += 1
            self.fates[got].owner = replica
            self.seen[f"{ask}: has its own{' beside others' if before else ''}"] += 1
        elif isinstance(error, ConflictError):
            self.refused(ask, allowed, (*before.values(), *after.values()), error)
        else:
            self.left_unclear(number, ask, error)
        return got

    def left_unclear(self, number: int, ask: Ask, error: BaseException | None) -> None:
        """Note that a call ended without saying whether its message has a turn."""
        assert isinstance(error, StoreError), error
        self.allowed[number] += 1
        self.unclear.add(number)
        self.seen[f"{ask}: is unclear"] += 1

    def refused(self, ask: Ask, allowed: Outcomes, turns: Iterable[Stored], error: ConflictError) -> None:
        """Hold a refusal against what a message may get."""
        assert allowed.refused, f"{ask}: was refused at {turns}: {error}"
        told = (f"{turn.id} of this message was not interrupted (it is {turn.status})" for turn in turns)
        assert any(each in str(error) for each in told), error
        self.seen[f"{ask}: is refused"] += 1

    def tell(self, turn: Turn) -> None:
        """Note what a caller was told."""
        self.told.append(turn)
        if not turn.status.is_final:
            self.fates[turn.id].told_running = True

    # --- leaving

    async def leave(self, which: int, how: Departure) -> None:
        """Let a caller leave in some way."""
        # Who waits for a turn that is being stopped may have asked anew by now.
        calls = [call for call in self.calls if not self.fates[call.turn_id].may_stop]
        if not calls:
            return
        call = calls[which % len(calls)]
        call.task.cancel(how)
        await asyncio.wait({call.task})
        if call.task.cancelled():
            self.calls.remove(call)
            await self.left(call.turn_id, call.replica, how)

    async def left(self, turn_id: UUID, replica: int, how: Departure) -> None:
        """See what becomes of a turn that a caller has left."""
        fate, leaver = self.fates[turn_id], self.replicas[replica]
        here = fate.owner == replica
        ends = how is Departure.STOPPED or (
            how is Departure.UNCLEAR and fate.owner is not None and GRACES[fate.owner] == NOW
        )
        fate.lost_caller |= leaver.wire.is_down and not here
        if fate.told_running:
            return
        others = [call.replica for call in self.calls if call.turn_id == turn_id]
        # Who leaves here hides who waits elsewhere until they say so again, after a second; no grace here is as long.
        fate.may_stop |= ends and here and replica not in others
        if others:
            fate.left_early |= ends and not here
            return
        fate.may_stop |= fate.left_early
        self.seen[f"left: {'ends' if ends else 'runs on'}, {how} {'here' if here else 'elsewhere'}"] += 1
        if not ends:
            return
        fate.may_stop = True
        is_heard = not leaver.wire.is_down if here else not any(each.was_cut for each in self.replicas)
        if is_heard and not fate.lost_caller:
            await self.until("status NOT IN ('running', 'input_required') OR id <> $1", turn_id)

    async def reap(self) -> None:
        """Note what those were told whose calls have ended."""
        for call in [call for call in self.calls if call.task.done()]:
            self.calls.remove(call)
            error = call.task.exception()
            if error is None:
                await self.answered(call, call.task.result())
            else:
                assert isinstance(error, AgentApiError), error
                fate = self.fates[call.turn_id]
                fate.lost_caller = True
                fate.may_stop |= not any(other.turn_id == call.turn_id for other in self.calls)

    async def answered(self, call: Call, turn: Turn) -> None:
        """Note the answer of a caller who waited: its turn's, or that of its own where that one was given up."""
        self.tell(turn)
        if turn.id != call.turn_id:
            _, turns = await self.turns(call.number)
            assert turns[call.turn_id].given_up, "a caller was told of another turn than the one that it waited for"
            if self.fates[turn.id].owner is None:
                self.fates[turn.id].owner = call.replica
                self.allowed[call.number] += 1

    # --- the rest

    async def read(self, replica: int, which: int) -> None:
        """Read a turn that somebody was told of."""
        if not self.told:
            return
        services, turn = self.replicas[replica].services, self.told[which % len(self.told)]
        with suppress(AgentApiError):
            self.tell(await services.turns.get(services.principal, str(turn.id)))

    async def cancel(self, replica: int, which: int) -> None:
        """Ask for the end of a turn, where that can be heard."""
        if self.told and not self.any_is_down:
            services, turn = self.replicas[replica].services, self.told[which % len(self.told)]
            self.fates[turn.id].may_stop = True
            with suppress(AgentApiError):
                self.tell(await services.turns.cancel(services.principal, str(turn.id)))

    async def deliver(self, replica: int, which: int) -> None:
        """Note that an answer has arrived."""
        answers = [turn for turn in self.told if turn.status.is_final and turn.saved]
        if not answers:
            return
        turn = answers[which % len(answers)]
        self.replicas[replica].services.turns.delivered(turn)
        if not self.replicas[replica].was_cut:
            await self.until("delivered_at IS NOT NULL OR id <> $1", turn.id)
            self.seen["delivered"] += 1

    async def orphan(self, which: int, *, asked: bool) -> None:
        """Leave a turn as a process leaves it that dies, and wait until it is settled."""
        rows = await self.owner.fetch("SELECT id FROM agentapi.turns WHERE status = 'running' ORDER BY created_at, id")
        if rows:
            turn_id = rows[which % len(rows)]["id"]
            await self.owner.execute(ORPHAN, turn_id, asked)
            await self.until("status <> 'running' OR id <> $1", turn_id)

    async def until(self, condition: str, *given: object) -> None:
        """Wait until all turns fulfil a condition in the database."""
        statement = f"SELECT EXISTS (SELECT FROM agentapi.turns WHERE NOT ({condition}))"  # noqa: S608  # a literal
        async with asyncio.timeout(60):
            while await self.owner.fetchval(statement, *given):
                pass

    async def end(self) -> None:
        """Let everything come back and every answer end."""
        for replica in self.replicas:
            replica.wire.come_up()
        self.steps.release(1_000)
        await self.until("status NOT IN ('running', 'input_required')")
        async with asyncio.timeout(60):
            while self.calls:
                await asyncio.wait({call.task for call in self.calls})
                await self.reap()


def _has_come(before: Stored | None, after: Stored) -> bool:
    """Tell whether a turn was begun, or somebody has come to it."""
    return before is None or (after.followed_at is not None and after.followed_at != before.followed_at)


class Turns(RuleBasedStateMachine):
    """What can happen, in any order.

    Which rules there are at a time does not depend on what the program has done: that takes its time.
    """

    urls: DatabaseUrls
    home: Path
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World(self.urls, self.home, self.seen)
        self.do(self.world.open())

    def do(self, work: Coroutine[None, None, T]) -> T:
        """Do something, and whatever goes on meanwhile."""
        return self.runner.run(work)

    @initialize(replica=REPLICAS, number=MESSAGES, waits=st.booleans())
    def begin(self, replica: int, number: int, *, waits: bool) -> None:
        """Let a caller send a message."""
        self.do(self.world.send(replica, number, Ask.PLAINLY, waits=waits))

    @precondition(lambda self: self.world.reachable)
    @rule(replica=REPLICAS, number=MESSAGES, waits=st.booleans())
    def send(self, replica: int, number: int, *, waits: bool) -> None:
        """Let a caller send a message, for the first time or again, who waits for the answer or not."""
        self.do(self.world.send(replica, number, Ask.PLAINLY, waits=waits))

    @precondition(lambda self: self.world.reachable)
    @rule(replica=REPLICAS, number=MESSAGES, waits=st.booleans())
    def retry(self, replica: int, number: int, *, waits: bool) -> None:
        """Let a caller ask again what was interrupted."""
        self.do(self.world.send(replica, number, Ask.AGAIN, waits=waits))

    @precondition(lambda self: self.world.reachable)
    @rule(replica=REPLICAS, number=KEYLESS, waits=st.booleans())
    def send_anew(self, replica: int, number: int, *, waits: bool) -> None:
        """Let a caller ask anew what was asked before."""
        self.do(self.world.send(replica, number, Ask.ANEW, waits=waits))

    @precondition(lambda self: self.world.reachable)
    @rule(replica=REPLICAS, number=MESSAGES, moment=st.integers(1, 12), how=DEPARTURES)
    def send_and_leave(self, replica: int, number: int, moment: int, how: Departure) -> None:
        """Let a caller send a message, and leave soon."""
        self.do(self.world.send_and_leave(replica, number, moment, how))

    @precondition(lambda self: self.world.reachable)
    @rule(replicas=st.tuples(REPLICAS, REPLICAS), number=KEYLESS, hows=st.tuples(DEPARTURES, DEPARTURES))
    def meet(self, replicas: tuple[int, int], number: int, hows: tuple[Departure, Departure]) -> None:
        """Let two callers wait for a turn of their own, and leave one after the other."""
        for replica, ask in zip(replicas, (Ask.ANEW, Ask.PLAINLY), strict=True):
            self.do(self.world.send(replica, number, ask, waits=True))
        for which, how in zip((-2, -1), hows, strict=True):
            self.do(self.world.leave(which, how))

    @rule(which=st.integers(0, 99), how=DEPARTURES)
    def leave(self, which: int, how: Departure) -> None:
        """Let a caller leave who waits."""
        self.do(self.world.leave(which, how))

    @rule(replica=REPLICAS, which=st.integers(0, 99))
    def deliver(self, replica: int, which: int) -> None:
        """Let an answer arrive."""
        self.do(self.world.deliver(replica, which))

    @rule()
    def outlast_the_answers(self) -> None:
        """Let ten minutes pass for what has ended."""
        self.do(self.world.owner.execute(TEN_MINUTES))

    @precondition(lambda self: not self.world.any_is_down)
    @rule(which=st.integers(0, 99), asked=st.booleans())
    def die(self, which: int, *, asked: bool) -> None:
        """Let the process of a turn die, before or after it asked the agent."""
        self.do(self.world.orphan(which, asked=asked))

    @precondition(lambda self: not self.world.any_is_down)
    @rule(which=st.sampled_from([[0], [1], [0, 1]]))
    def lose_the_database(self, which: list[int]) -> None:
        """Cut replicas off from the database, one as it is when it dies, or all."""
        for place in which:
            self.world.replicas[place].cut()

    @precondition(lambda self: self.world.any_is_down)
    @rule(first=REPLICAS)
    def find_the_database(self, first: int) -> None:
        """Let the replicas come back, one of them first."""
        for place in (first, 1 - first):
            self.world.replicas[place].wire.come_up()

    @rule(steps=st.sampled_from([3, 12]))
    def answer(self, steps: int) -> None:
        """Let the provider go on with its answers."""
        self.world.steps.release(steps)

    @precondition(lambda self: self.world.any_is_down)
    @rule()
    def outlast_the_leases(self) -> None:
        """Let time pass until the leases of replicas that are cut off are over, and settled if one is there for it."""
        if all(replica.wire.is_down for replica in self.world.replicas):
            self.do(self.world.until("status <> 'running' OR lease_until < clock_timestamp()"))
        else:
            now = self.do(self.world.owner.fetchval("SELECT clock_timestamp()"))
            # Renewed since then by a replica that is there, or settled by it.
            self.do(self.world.until("status <> 'running' OR lease_until > $1", now + OPTIONS.lease))

    @rule(replica=REPLICAS, statement=st.sampled_from(["begin_turn_2", "end_turn_2"]), how=st.sampled_from(LOSSES))
    def lose_an_acknowledgement(self, replica: int, statement: str, how: Break) -> None:
        """Cut the wire at the next beginning or end of a turn."""
        self.world.replicas[replica].wire.break_at(statement, how)

    @rule(replica=REPLICAS, which=st.integers(0, 99))
    def read(self, replica: int, which: int) -> None:
        """Let a caller come back for a turn."""
        self.do(self.world.read(replica, which))

    @rule(replica=REPLICAS, which=st.integers(0, 99))
    def cancel(self, replica: int, which: int) -> None:
        """Let a caller stop a turn."""
        self.do(self.world.cancel(replica, which))

    @invariant()
    def who_is_answered_is_told_of_its_own_turn(self) -> None:
        """Take note of the answers that callers who wait have received."""
        self.do(self.world.reap())

    @invariant()
    def what_is_told_as_completed_is_stored(self) -> None:
        """Hold what was told against what is stored, as long as the store can be asked."""
        for told in self.world.told:
            if told.status is TurnStatus.COMPLETED and told.saved:
                stored = self.do(self.world.owner.fetchrow(STORED, told.id))
                assert stored is not None
                assert tuple(stored) == ("completed", told.reply)

    @override
    def teardown(self) -> None:
        """Let all come to its end, and count."""
        try:
            self.do(self.world.end())
            self.nothing_is_asked_more_often_than_it_may_be()
            self.nothing_is_stopped_that_somebody_waits_for()
            assert self.do(self.world.owner.fetchval(FOREIGN)) == 0, "a reply stands at another message"
            keyed = self.world.text(KEYED)
            assert self.do(self.world.owner.fetchval(TWICE, keyed)) <= 1, "a message with a key stands twice"
            assert self.do(self.world.owner.fetchval(UNAUDITED)) == 0, "the audit log lacks the end of a turn"
            self.what_is_told_as_completed_is_stored()
        finally:
            self.do(self.world.stack.aclose())
            self.runner.close()

    def nothing_is_asked_more_often_than_it_may_be(self) -> None:
        """Count turns and requests to the provider."""
        asked = [str(exchange.json["messages"]) for exchange in self.world.peer.exchanges]
        for number in range(KEYED + 1):
            text = self.world.text(number)
            _, turns = self.do(self.world.turns(number))
            assert len(turns) <= self.world.allowed[number], f"{number} has more turns than it may have"
            assert sum(text in each for each in asked) <= len(turns), f"{number} was asked twice in one turn"

    def nothing_is_stopped_that_somebody_waits_for(self) -> None:
        """Look at the turns that were cancelled."""
        for row in self.do(self.world.owner.fetch("SELECT id FROM agentapi.turns WHERE status = 'cancelled'")):
            assert self.world.fates[row["id"]].may_stop, "a turn was stopped without a reason"


# Who sends a message within one second of another is not taken for one who sends it again.
AGE = """
UPDATE agentapi.turns t SET created_at = t.created_at - interval '2 s' FROM public.chat_messages u
 WHERE u.id = t.user_message_id AND u.content = $1
   AND t.created_at > clock_timestamp() - interval '1 s'
"""
SEEN = """
SELECT t.id, t.status, coalesce(t.end_reason = 'abandoned', false) AS given_up, t.created_at,
       t.asked_at IS NOT NULL AS asked, t.delivered_at IS NOT NULL AS delivered,
       coalesce(t.ended_at > clock_timestamp() - interval '10 minutes', true) AS recent,
       t.replaced_by IS NOT NULL AS replaced,
       EXISTS (SELECT FROM agentapi.turns o WHERE o.replaced_by = t.id) AS replaces,
       t.followed_at, t.lease_until
  FROM agentapi.turns t JOIN public.chat_messages u ON u.id = t.user_message_id WHERE u.content = $1
"""
ORPHAN = """
UPDATE agentapi.turns SET lease_owner = gen_random_uuid(), lease_until = clock_timestamp(),
       asked_at = CASE WHEN $2 THEN coalesce(asked_at, clock_timestamp()) END
 WHERE id = $1 AND status = 'running'
"""
TEN_MINUTES = """
UPDATE agentapi.turns SET created_at = created_at - interval '10 minutes', ended_at = ended_at - interval '10 minutes'
 WHERE ended_at IS NOT NULL
"""
STORED = """
SELECT t.status, a.content FROM agentapi.turns t
  LEFT JOIN public.chat_messages a ON a.id = t.assistant_message_id WHERE t.id = $1
"""
FOREIGN = """
SELECT count(*) FROM agentapi.turns t
  JOIN public.chat_messages u ON u.id = t.user_message_id JOIN public.chat_messages a ON a.id = t.assistant_message_id
 WHERE t.status = 'completed' AND strpos(a.content, split_part(u.content, ' ', 1)) = 0
"""
TWICE = "SELECT count(*) FROM public.chat_messages WHERE role = 'user' AND content = $1"
UNAUDITED = """
SELECT count(*) FROM agentapi.turns t
 WHERE (SELECT count(*) FROM agentapi.audit_events e WHERE e.target_id = t.id::text AND e.action = 'turn_ended') <> 1
"""


@pytest.mark.timeout(600)
def test_no_order_of_events_loses_a_turn_or_asks_twice(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    machine = type("Turns", (Turns,), {"urls": database_urls, "home": tmp_path})
    chosen = settings(
        max_examples=12,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,  # the same walks each time, since their time is not
        phases=[Phase.generate],  # a shorter walk is seldom one that fails, since time is part of it
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(machine, settings=chosen)
    _log.info("seen %s", dict(sorted(Turns.seen.items())))
    for what in ("plainly: joins", "plainly: has its own", "again: is refused", "left: ends", "left: runs on"):
        assert any(seen.startswith(what) for seen in Turns.seen), f"{what}: was not tried"
