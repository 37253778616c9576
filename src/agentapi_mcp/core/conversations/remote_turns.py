"""Turns that run in another process: waited for and followed, by what is written and by what can be heard live."""

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

_LOOK_EVERY = timedelta(seconds=1)
REPORT_EVERY = timedelta(seconds=0.5)
REPORT_AT_LEAST_EVERY = timedelta(seconds=10)
TAIL = 200


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running answer is: its characters, the last 200 of them, and what the agent does."""

    characters: int
    tail: str
    elapsed: timedelta
    activity: str | None


ReportProgress = Callable[[Progress], Awaitable[None]]


@dataclass(slots=True)
class _RemoteAnswer:
    """The answer as it is known here; what was missed is made up for by the next look at what is written."""

    text: str = ""
    activity: str | None = None

    def look(self, turn: Turn) -> None:
        if len(turn.reply) > len(self.text):
            self.text = turn.reply

    def take(self, offset: int, event: TurnEvent) -> None:
        match event:
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
    """Waits for and follows turns that this process does not run."""

    def __init__(self, turns: TurnStore, events: TurnEvents, signals: Signals, clock: Clock) -> None:
        self._turns = turns
        self._events = events
        self._signals = signals
        self._clock = clock

    async def wait(self, principal: Principal, turn: Turn, wait: timedelta, report: ReportProgress | None) -> Turn:
        """Wait for the end, within bounds, and report: the first piece at once, then 0.5 to 10 s after each other."""
        started, heard = self._clock.monotonic(), _RemoteAnswer()
        told, told_at = 0, started
        async with aclosing(self._changes(principal, turn, wait)) as changes:
            async for seen in changes:
                if isinstance(seen, Turn):
                    turn = seen
                    heard.look(seen)
                else:
                    heard.take(*seen)
                now = self._clock.monotonic()
                since = timedelta(seconds=now - told_at)
                pace = REPORT_EVERY if len(heard.text) != told else REPORT_AT_LEAST_EVERY
                due = since >= pace or (told == 0 and heard.text != "")  # the first piece is told at once
                if report is not None and due and not turn.status.is_final:
                    told, told_at = len(heard.text), now
                    elapsed = timedelta(seconds=now - started)
                    await report(Progress(told, heard.text[-TAIL:], elapsed, heard.activity))
        return turn

    async def follow(self, principal: Principal, turn: Turn) -> AsyncGenerator[TurnEvent]:
        """Tell what the turn says: the text so far, then each event as it is heard, then the end."""
        heard, told = _RemoteAnswer(), 0
        async with aclosing(self._changes(principal, turn, timedelta.max)) as changes:
            async for seen in changes:
                if isinstance(seen, Turn):
                    heard.look(seen)
                else:
                    heard.take(*seen)
                    if isinstance(seen[1], ThoughtDelta | ToolActivity):
                        yield seen[1]
                if len(heard.text) > told:
                    yield TextDelta(heard.text[told:])
                    told = len(heard.text)
        yield TurnEnded(self._clock.now())

    async def _changes(
        self, principal: Principal, turn: Turn, wait: timedelta
    ) -> AsyncGenerator[Turn | tuple[int, TurnEvent]]:
        """Look at a turn when told that it ended and else every second, until it is final; hear its events between."""
        until = self._clock.monotonic() + wait.total_seconds()
        heard: asyncio.Queue[tuple[int, TurnEvent] | None] = asyncio.Queue()

        def hear_end(signal: Signal) -> None:
            if signal.kind is SignalKind.ENDED and signal.turn_id == turn.id:
                heard.put_nowait(None)

        with ExitStack() as stack:
            stack.callback(self._signals.subscribe(hear_end))
            turn = await self._turns.get(principal, turn.id)
            if not turn.status.is_final:
                stack.callback(self._events.listen(turn.id, lambda offset, event: heard.put_nowait((offset, event))))
            while True:
                yield turn
                left = until - self._clock.monotonic()
                if turn.status.is_final or left <= 0:
                    return
                with suppress(StoreError):  # a mark that is lost costs a repeated answer, never a turn
                    await self._turns.mark(principal, turn.id, TurnMark.FOLLOWED)
                look_at = self._clock.monotonic() + min(left, _LOOK_EVERY.total_seconds())
                while (event := await self._next(heard, look_at)) is not None:
                    yield event
                turn = await self._turns.get(principal, turn.id)

    async def _next(
        self, heard: asyncio.Queue[tuple[int, TurnEvent] | None], look_at: float
    ) -> tuple[int, TurnEvent] | None:
        left = look_at - self._clock.monotonic()
        if left <= 0:
            return None
        try:
            async with asyncio.timeout(left):
                return await heard.get()
        except TimeoutError:
            return None
