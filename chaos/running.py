"""How a scenario is run: a world is loaded and broken at once, left to itself, and judged."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from chaos.clients import BareClient, Client, Era, RefusedError
from chaos.evidence import Message, Outage, Refusal, marked
from chaos.findings import Rule, Violation
from chaos.invariants import SETTLED_WITHIN, TIMED, check, ends_audited, split_known
from chaos.load import USUAL, Habit, Load, tell
from chaos.postgres import Programs
from chaos.results import Result
from chaos.timing import now, pause, until
from chaos.world import AGENT, THREE, Replica, Shape, World, open_world

_WARM_UP = 3.0
_RECOVERS_WITHIN = 120.0
# The audit log is written a moment later, many events at once.
_AUDITED_WITHIN = 4.0


@dataclass
class Run:
    """One run of a scenario, as its faults see it."""

    world: World
    load: Load
    chance: random.Random
    end: float
    faults: Counter[str] = field(default_factory=Counter[str])
    recoveries: list[float] = field(default_factory=list[float])
    found: list[Violation] = field(default_factory=list[Violation])
    notes: list[str] = field(default_factory=list[str])
    is_timed: bool = True

    @property
    def left(self) -> float:
        """How many seconds of the load are left."""
        return self.end - now()

    def count(self, fault: str, times: int = 1) -> None:
        """Count a fault that was injected."""
        self.faults[fault] += times

    def violates(self, name: str, subject: str, detail: str) -> None:
        """Report what a scenario found by itself."""
        self.found.append(Violation(name, subject, detail))

    def client(self, replica: Replica | None = None, era: Era = "2026-07-28") -> Client:
        """Return a client of the balancer, or of one replica; over stdio where the world has a home for that.

        Of several people it is the last one's, whose organisation has money.
        """
        if self.world.residents is not None:
            return self.world.residents.client(era)
        token = self.world.people[-1].token if self.world.people else None
        return BareClient(self.world.http, self.world.balancer.url if replica is None else replica.url, era, token)

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        """Note that nobody can use the database until the context ends, and how long recovery takes then."""
        outage = Outage(since=now())
        self.world.outages.append(outage)
        try:
            yield
        finally:
            outage.until = now()
        await self.recovers()

    async def recovers(self, since: float | None = None) -> None:
        """Measure how long it takes until a new message is answered."""
        since = now() if since is None else since
        client, waits = self.client(), {"agent": AGENT, "wait_seconds": 5}

        async def answered() -> bool:
            message = self.load.new_message()
            try:
                told = await tell(client, message, "chat", {"message": marked(message.marker, ""), **waits}, 20)
            except RefusedError as exc:
                refusal = Refusal(at=now(), kind=exc.kind, text=exc.text, retry_after=exc.retry_after)
                if refusal.is_for_budget:
                    message.refusals.append(refusal)
                    return True
                message.copies = 2  # it may be accepted, and then it is not sent again
                return False
            return told.status == "completed"

        if not await until(answered, _RECOVERS_WITHIN, 0.5):
            self.violates("never_recovered", "world", f"no answer within {_RECOVERS_WITHIN:g} s")
        self.recoveries.append(now() - since)


Fault = Callable[[Run], Awaitable[None]]


async def nothing(run: Run) -> None:
    """Break nothing."""
    del run


def together(*faults: Fault) -> Fault:
    """Inject several faults at the same time."""

    async def inject(run: Run) -> None:
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(_as_coroutine(fault, run))

    return inject


async def _as_coroutine(fault: Fault, run: Run) -> None:
    await fault(run)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is broken, under which load, and what must hold beside the invariants."""

    about: str
    fault: Fault
    shape: Shape | Callable[[], Shape] = THREE
    habit: Habit = USUAL
    seconds: float = 40
    clients: int = 12
    rules: Sequence[Rule] = ()
    afterwards: Fault = nothing  # what is tried when the load is over and has been settled
    obstacle: Callable[[], str | None] = lambda: None  # why it cannot be run here


@dataclass(frozen=True, kw_only=True)
class Options:
    """What of a scenario is set by hand; one that is not timed judges nothing by how fast the machine is."""

    seconds: float | None = None
    clients: int | None = None
    turns: int | None = None  # for a load that counts them
    seed: int = 13
    is_timed: bool = True


async def drive(name: str, scenario: Scenario, programs: Programs, options: Options) -> Result:
    """Run a scenario and judge what it left."""
    seconds = scenario.seconds if options.seconds is None else options.seconds
    clients = scenario.clients if options.clients is None else options.clients
    chance = random.Random(options.seed)
    shape = scenario.shape if isinstance(scenario.shape, Shape) else scenario.shape()
    begun = now()
    async with open_world(shape, programs, chance) as world:
        load = Load(world, _habit(scenario, options), chance, clients, seconds)
        run = Run(world, load, chance, now() + seconds, is_timed=options.is_timed)
        loaded = now()
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            group.create_task(_inject(scenario, run))
        run.notes.append(f"{load.accepted / (now() - loaded):.1f} turns a second")
        await _settle(run)
        await scenario.afterwards(run)
        evidence = await world.evidence(load.messages)
        if not any(told.status == "completed" for message in load.messages for told in message.told):
            run.violates("nothing_answered", "world", "not one message was answered, so that nothing was tried")
        if load.left:
            run.count("calls left in the middle", load.left)
        if load.cancelled:
            run.count("turns cancelled", load.cancelled)
        violations, known = split_known(evidence, check(evidence, *scenario.rules), shape.sources)
        if not options.is_timed:
            violations = [each for each in violations if each.name not in TIMED]
        run.notes += [f"known of the version before: {each.name} {each.subject}" for each in known]
        return Result(
            name=name,
            seconds=now() - begun,
            clients=clients,
            faults=run.faults,
            turns=len(evidence.turns),
            violations=[*violations, *run.found],
            recoveries=run.recoveries,
            refusals=_refusals(load.messages),
            notes=run.notes,
        )


def _habit(scenario: Scenario, options: Options) -> Habit:
    if options.turns is None or scenario.habit.enough is None:
        return scenario.habit
    return replace(scenario.habit, enough=options.turns)


async def _inject(scenario: Scenario, run: Run) -> None:
    await pause(min(_WARM_UP, run.left / 4))
    await scenario.fault(run)


async def _settle(run: Run) -> None:
    """Wait until every turn has ended and its end is audited, or until that is late."""

    async def all_ended() -> bool:
        return await run.world.open_turns() == 0

    async def all_audited() -> bool:
        return not any(ends_audited(await run.world.evidence(run.load.messages)))

    ended_within, audited_within = (
        (SETTLED_WITHIN + 5, _AUDITED_WITHIN) if run.is_timed else (_RECOVERS_WITHIN, _RECOVERS_WITHIN)
    )
    await until(all_ended, ended_within, 0.5)
    await until(all_audited, audited_within, 0.5)


def _refusals(messages: Sequence[Message]) -> Counter[str]:
    return Counter(f"{refusal.kind}: {refusal.text[:120]}" for message in messages for refusal in message.refusals)
