"""Follow turns of other processes, by polling the store and by live events."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from datetime import timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.core.backends.events import TextDelta, ThoughtDelta, ToolActivity, ToolState
from agentapi_mcp.core.conversations.models import Turn, TurnEnded, TurnEvent, TurnMark
from agentapi_mcp.core.conversations.ports import TurnEvents, TurnStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import Signal, SignalKind, Signals

# Notifications may be lost, and there are none behind a transaction pooler.
_POLL_EVERY = timedelta(seconds=1)
REPORT_EVERY = timedelta(seconds=0.5)
REPORT_AT_LEAST_EVERY = timedelta(seconds=10)
TAIL = 200


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a running answer: its length, its last 200 characters, and the agent's activity."""

    characters: int
    tail: str
    elapsed: timedelta
    activity: str | None


ReportProgress = Callable[[Progress], Awaitable[None]]


@dataclass(slots=True)
class _RemoteAnswer:
    """The answer as received so far; missed events are recovered by the next read of the stored text."""

    text: str = ""
    activity: str | None = None

    def merge(self, turn: Turn) -> None:
        if len(turn.reply) > len(self.text):
            self.text = turn.reply

    def apply(self, offset: int, event: TurnEvent) -> None:
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


class RemoteTurns:
    """Wait for and follow turns that run in other processes."""

    def __init__(self, turns: TurnStore, events: TurnEvents, signals: Signals, clock: Clock) -> None:
        self._turns = turns
        self._events = events
        self._signals = signals
        self._clock = clock

    async def wait(self, principal: Principal, turn: Turn, wait: timedelta, report: ReportProgress | None) -> Turn:
        """Wait for the end, at most `wait`, and report progress: first text at once, then every 0.5 to 10 s."""
        started, answer = self._clock.monotonic(), _RemoteAnswer()
        reported, reported_at = 0, started
        async with aclosing(self._changes(principal, turn, wait)) as changes:
            async for update in changes:
                if isinstance(update, Turn):
                    turn = update
                    answer.merge(update)
                else:
                    answer.apply(*update)
                now = self._clock.monotonic()
                since = timedelta(seconds=now - reported_at)
                pace = REPORT_EVERY if len(answer.text) != reported else REPORT_AT_LEAST_EVERY
                due = since >= pace or (reported == 0 and answer.text != "")  # report the first text at once
                if report is not None and due and not turn.status.is_final:
                    reported, reported_at = len(answer.text), now
                    elapsed = timedelta(seconds=now - started)
                    await report(Progress(reported, answer.text[-TAIL:], elapsed, answer.activity))
        return turn

    async def follow(self, principal: Principal, turn: Turn) -> AsyncGenerator[TurnEvent]:
        """Yield the text so far, then each event as it arrives, then the end."""
        answer, sent = _RemoteAnswer(), 0
        async with aclosing(self._changes(principal, turn, timedelta.max)) as changes:
            async for update in changes:
                if isinstance(update, Turn):
                    answer.merge(update)
                else:
                    answer.apply(*update)
                    if isinstance(update[1], ThoughtDelta | ToolActivity):
                        yield update[1]
                if len(answer.text) > sent:
                    yield TextDelta(answer.text[sent:])
                    sent = len(answer.text)
        yield TurnEnded(self._clock.now())

    async def _changes(
        self, principal: Principal, turn: Turn, wait: timedelta
    ) -> AsyncGenerator[Turn | tuple[int, TurnEvent]]:
        """Yield the turn every second and when its end is signalled, until it is final, and live events in between."""
        until = self._clock.monotonic() + wait.total_seconds()
        received: asyncio.Queue[tuple[int, TurnEvent] | None] = asyncio.Queue()

        def on_end(signal: Signal) -> None:
            if signal.kind is SignalKind.ENDED and signal.turn_id == turn.id:
                received.put_nowait(None)

        with ExitStack() as stack:
            stack.callback(self._signals.subscribe(on_end))
            # Read again after subscribing: otherwise an end in between would be missed.
            turn = await self._turns.get(principal, turn.id)
            if not turn.status.is_final:
                stack.callback(self._events.listen(turn.id, lambda offset, event: received.put_nowait((offset, event))))
            while True:
                yield turn
                left = until - self._clock.monotonic()
                if turn.status.is_final or left <= 0:
                    return
                with suppress(StoreError):  # a lost mark costs a repeated answer, never a turn
                    await self._turns.mark(principal, turn.id, TurnMark.FOLLOWED)
                poll_at = self._clock.monotonic() + min(left, _POLL_EVERY.total_seconds())
                # Live events are delivered at most once; the next read of the stored turn makes up for lost ones.
                while (event := await self._next(received, poll_at)) is not None:
                    yield event
                turn = await self._turns.get(principal, turn.id)

    async def _next(
        self, received: asyncio.Queue[tuple[int, TurnEvent] | None], poll_at: float
    ) -> tuple[int, TurnEvent] | None:
        left = poll_at - self._clock.monotonic()
        if left <= 0:
            return None
        try:
            async with asyncio.timeout(left):
                return await received.get()
        except TimeoutError:
            return None
