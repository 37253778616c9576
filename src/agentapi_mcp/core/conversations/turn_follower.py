"""Wait for turns and follow them, whether they run in this process or in another one."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.deadlines import Deadline, done_within
from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.core.backends.events import TextDelta, ThoughtDelta, ToolActivity, ToolState
from agentapi_mcp.core.conversations.models import Turn, TurnEnded, TurnEvent, TurnMark
from agentapi_mcp.core.conversations.ports import TurnPorts, TurnStore
from agentapi_mcp.core.conversations.running_turn import RunningTurn
from agentapi_mcp.core.conversations.turn_callers import FOLLOWED_EVERY
from agentapi_mcp.core.conversations.turn_runner import TurnRunner
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import Signal, SignalKind

# Notifications may be lost, and there are none behind a transaction pooler. Each look says that somebody follows.
_POLL_EVERY = FOLLOWED_EVERY
REPORT_EVERY = timedelta(seconds=0.5)
REPORT_AT_LEAST_EVERY = timedelta(seconds=10)
_TAIL = 200
# The outcome is known by then; if the store does not come back meanwhile, it is told with `saved: false`.
_WAIT_FOR_STORE = timedelta(seconds=3)
_SAVED_SOON = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a running turn: its text so far, and the agent's activity."""

    turn_id: TurnId
    text: str
    elapsed: timedelta
    activity: str | None

    @property
    def tail(self) -> str:
        """The last 200 characters of the text."""
        return self.text[-_TAIL:]


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """Who is told of progress, and how often there is more text; `at_once` tells of the turn before there is any."""

    tell: Callable[[Progress], Awaitable[None]]
    every: timedelta = REPORT_EVERY
    at_once: bool = False


class FollowedTurn(Protocol):
    """A turn as its followers see it."""

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to come."""
        ...

    def progress(self, elapsed: timedelta) -> Progress:
        """Return the progress so far."""
        ...

    async def changed(self, within: timedelta) -> Sequence[TurnEvent]:
        """Wait for the first text, for more of it, or for the end, and return the events that were received."""
        ...


class Pacer:
    """Report progress: the first text at once, then as often as asked if there is more, and at least every 10 s."""

    def __init__(self, clock: Clock, report: ProgressReport | None, started: float) -> None:
        self._clock = clock
        self._report = report
        self._started = self._reported_at = started
        self._reported = 0
        self._owes_first = report is not None and report.at_once

    async def follow(self, turn: FollowedTurn, until: float) -> None:
        """Wait for the end of a turn, at most until this time of the clock, and report how far it is."""
        every = timedelta.max if self._report is None else self._report.every
        if until > self._clock.monotonic():
            await self.report(turn)  # it may have begun before anybody follows it
        while not turn.has_ended and (left := until - self._clock.monotonic()) > 0:
            await turn.changed(min(timedelta(seconds=left), every))
            await self.report(turn)

    async def report(self, turn: FollowedTurn) -> None:
        """Report if it is time."""
        if self._report is None or turn.has_ended:
            return
        now = self._clock.monotonic()
        progress = turn.progress(timedelta(seconds=now - self._started))
        characters = len(progress.text)
        is_first = self._owes_first or (self._reported == 0 and characters > 0)
        pace = self._report.every if characters != self._reported else REPORT_AT_LEAST_EVERY
        is_due = is_first or now - self._reported_at >= pace.total_seconds()
        if is_due:
            self._reported, self._reported_at, self._owes_first = characters, now, False
            await self._report.tell(progress)


class TurnFollower:
    """Wait for turns and follow them."""

    def __init__(self, ports: TurnPorts, runner: TurnRunner) -> None:
        self._turns = ports.turns
        self._events = ports.events
        self._signals = ports.signals
        self._clock = ports.clock
        self._runner = runner

    async def wait_here(
        self, run: RunningTurn, until: float, report: ProgressReport | None, started: float, deadline: Deadline
    ) -> Turn:
        """Wait for the outcome of a turn that runs here to be stored, and return it; else the turn as it is known.

        `until` and `started` are monotonic seconds; `deadline` is that of the caller's waiting. An outcome that is not
        stored is returned only while the store cannot be reached.

        Raises:
            NotFoundError: the session was deleted meanwhile.
            StoreError: the store refuses the outcome.
        """
        async with self._runner.callers.following(run):
            here = _LocalTurn(run, deadline, is_reported=report is not None)
            await Pacer(self._clock, report, started).follow(here, until)
            if run.answered.is_set() and not run.saved.is_set():
                await self._wait_until_told(run, until)
            if run.not_stored is not None:
                raise run.not_stored
            if run.saved.is_set() or (run.answered.is_set() and not self._runner.watch.is_up):
                return run.snapshot()
            self._runner.callers.answer_running(run)
            return run.unfinished()

    async def wait_elsewhere(
        self,
        principal: Principal,
        turn: Turn,
        until: float,
        report: ProgressReport | None,
        started: float,
        *,
        within: float,
    ) -> Turn:
        """Wait for the end of a turn that may run in another process, and return it as it is stored then.

        `within` are the seconds after which the call ends, whatever the store does.
        """
        known = turn
        try:
            async with asyncio.timeout(within), self._remote(principal, turn) as remote:
                try:
                    await Pacer(self._clock, report, started).follow(remote, until)
                finally:
                    known = remote.turn
                if not known.status.is_final:
                    with suppress(StoreError):  # a lost mark costs a turn that its caller comes back for too late
                        await self._turns.mark(principal, known.id, TurnMark.ANSWERED_RUNNING)
        except TimeoutError:
            pass  # the store is late: what is known is told
        except asyncio.CancelledError as gone:
            self._runner.callers.left(principal, known, gone)
            raise
        return known

    async def follow_here(self, run: RunningTurn) -> AsyncGenerator[TurnEvent]:
        """Yield the text so far, then each event as it arrives, then the end, of a turn that runs here."""
        # Subscribe before reading the text so far: no event is lost between the two.
        async with self._runner.callers.following(run), self._events.follow(run.id) as events:
            if run.answer.characters:
                yield TextDelta(run.answer.text)
            if run.saved.is_set():
                yield TurnEnded(self._clock.now())
                return
            async for event in events:
                yield event

    async def follow_elsewhere(self, principal: Principal, turn: Turn) -> AsyncGenerator[TurnEvent]:
        """Yield the text so far, then each event as it arrives, then the end, of a turn of another process.

        Without Redis, it yields stored text only.
        """
        sent = 0
        async with self._remote(principal, turn) as remote:
            while True:
                if len(remote.text) > sent:
                    yield TextDelta(remote.text[sent:])
                    sent = len(remote.text)
                if remote.has_ended:
                    break
                for event in await remote.changed(_POLL_EVERY):
                    if isinstance(event, ThoughtDelta | ToolActivity):
                        yield event
        yield TurnEnded(self._clock.now())

    async def _wait_until_told(self, run: RunningTurn, until: float) -> None:
        """Wait until the outcome is stored; while the store is away, for a moment."""
        watch = self._runner.watch
        # Nearly always it is stored at once, and no task is needed to wait for the other two.
        with suppress(TimeoutError):
            soon = min(_SAVED_SOON.total_seconds(), max(0.0, until - self._clock.monotonic()))
            await done_within(soon, run.saved.wait())
            return
        while not run.saved.is_set() and (left := until - self._clock.monotonic()) > 0:
            if watch.is_up:
                await first_of(run.saved.wait(), watch.until_down(), self._clock.sleep(timedelta(seconds=left)))
                continue
            await first_of(run.saved.wait(), self._clock.sleep(min(timedelta(seconds=left), _WAIT_FOR_STORE)))
            if not watch.is_up:  # otherwise it was seen again meanwhile, if only by an answer that was on its way
                return

    @asynccontextmanager
    async def _remote(self, principal: Principal, turn: Turn) -> AsyncGenerator["_RemoteTurn"]:
        remote = _RemoteTurn(self._turns, principal, turn, self._clock)

        def on_end(signal: Signal) -> None:
            if signal.kind is SignalKind.ENDED and signal.turn_id == turn.id:
                remote.received.put_nowait(None)

        with ExitStack() as stack:
            stack.callback(self._signals.subscribe(on_end))
            # Read again after subscribing: otherwise an end in between would be missed.
            await remote.read()
            if not remote.has_ended:
                listener = stack.callback
                listener(
                    self._events.listen(turn.id, lambda offset, event: remote.received.put_nowait((offset, event)))
                )
            yield remote


@dataclass(slots=True)
class _LocalTurn(FollowedTurn):
    run: RunningTurn
    deadline: Deadline
    is_reported: bool

    @property
    @override
    def has_ended(self) -> bool:
        return self.run.answered.is_set()

    @override
    def progress(self, elapsed: timedelta) -> Progress:
        answer = self.run.answer
        return Progress(self.run.id, answer.text, elapsed, answer.activity)

    @override
    async def changed(self, within: timedelta) -> Sequence[TurnEvent]:
        is_next_the_end = not self.is_reported or self.run.begun.is_set()
        awaited = self.run.answered if is_next_the_end else self.run.begun
        with suppress(TimeoutError):
            await self.deadline.until(asyncio.get_running_loop().time() + within.total_seconds(), awaited.wait())
        return ()


@dataclass(slots=True)
class _RemoteTurn(FollowedTurn):
    """A turn of another process: the stored text every second, and the live events in between."""

    turns: TurnStore
    principal: Principal
    turn: Turn
    clock: Clock
    text: str = ""
    activity: str | None = None
    read_at: float = 0.0
    received: asyncio.Queue[tuple[int, TurnEvent] | None] = field(
        default_factory=asyncio.Queue[tuple[int, TurnEvent] | None]
    )

    @property
    @override
    def has_ended(self) -> bool:
        return self.turn.status.is_final

    @override
    def progress(self, elapsed: timedelta) -> Progress:
        return Progress(self.turn.id, self.text, elapsed, self.activity)

    @override
    async def changed(self, within: timedelta) -> Sequence[TurnEvent]:
        now = self.clock.monotonic()
        left = min(within.total_seconds(), self.read_at + _POLL_EVERY.total_seconds() - now)
        try:
            async with asyncio.timeout(max(left, 0)):
                received = await self.received.get()
        except TimeoutError:
            if self.clock.monotonic() - self.read_at >= _POLL_EVERY.total_seconds():
                await self.read()
            return ()
        if received is None:  # it has ended
            await self.read()
            return ()
        self._apply(*received)
        return (received[1],)

    async def read(self) -> None:
        """Read the stored turn, which makes up for lost events, and note that somebody follows it."""
        self.read_at = self.clock.monotonic()
        self.turn = await self.turns.get(self.principal, self.turn.id)
        if len(self.turn.reply) > len(self.text):
            self.text = self.turn.reply
        if not self.has_ended:
            with suppress(StoreError):  # a lost mark costs a repeated answer, never a turn
                await self.turns.mark(self.principal, self.turn.id, TurnMark.FOLLOWED)

    def _apply(self, offset: int, event: TurnEvent) -> None:
        match event:
            # Live and stored text overlap: append only what lies beyond the known text, and skip what leaves a gap.
            case TextDelta(text) if offset <= len(self.text) < offset + len(text):
                self.text += text[len(self.text) - offset :]
                self.activity = None
            case ThoughtDelta():
                self.activity = "thinking"
            case ToolActivity(name, state):
                self.activity = f"using {name}" if state is ToolState.STARTED else None
            case _:
                pass
