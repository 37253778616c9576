"""What becomes of the callers of this process's turns, written a moment after it happened."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import guarded
from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.core.conversations.models import TurnMark
from agentapi_mcp.core.conversations.ports import TurnStore
from agentapi_mcp.core.identity.principals import Principal

_DELIVERED_DELAY = timedelta(milliseconds=30)
_LONGEST_PAUSE = timedelta(seconds=30)  # before what the database did not take is written again
Spawn = Callable[[Coroutine[None, None, None]], "asyncio.Task[None]"]


class CallerNews:
    """Marks of turns, each written at once; deliveries, those of a moment together."""

    def __init__(self, turns: TurnStore, clock: Clock, spawn: Spawn) -> None:
        self._turns = turns
        self._clock = clock
        self._spawn = spawn
        self._marking: set[asyncio.Task[None]] = set()
        # With when they were made: only what is written is forgotten.
        self._marks: dict[tuple[TurnId, TurnMark], tuple[Principal, float]] = {}
        self._writing: set[tuple[TurnId, TurnMark]] = set()
        self._delivered: set[TurnId] = set()
        self._has_news = asyncio.Event()
        self._was_refused = False  # what the last flush had to write is not written

    def mark(self, principal: Principal, turn_id: TurnId, mark: TurnMark) -> None:
        """Write a mark without waiting; one that the database does not take is written later, with its time."""
        self._marks[turn_id, mark] = principal, self._clock.monotonic()
        marking = self._spawn(self._mark(turn_id, mark))
        self._marking.add(marking)
        marking.add_done_callback(self._marking.discard)

    def forget(self, turn_id: TurnId, mark: TurnMark) -> None:
        """Write a mark no more, since it does not hold any longer; one that is written stays."""
        self._marks.pop((turn_id, mark), None)

    def delivered(self, turn_id: TurnId) -> None:
        """Note that the answer of a turn has arrived; it is written with those of the next moment."""
        self._delivered.add(turn_id)
        self._has_news.set()

    async def run(self) -> None:
        """Write deliveries, and marks that were refused, forever."""
        pause = _DELIVERED_DELAY
        while True:
            if not self._delivered and not self._marks:
                await self._has_news.wait()
            await self._clock.sleep(pause)
            await guarded(self.flush())
            pause = min(pause * 2, _LONGEST_PAUSE) if self._was_refused else _DELIVERED_DELAY

    async def publish(self) -> None:
        """Write at once what is waiting, for whoever looks in another process."""
        if self._marking:
            await asyncio.wait(self._marking)
        await self.flush()

    async def flush(self) -> None:
        """Write the deliveries and the marks that are waiting."""
        delivered = frozenset(self._delivered)
        self._has_news.clear()
        self._was_refused = False
        if delivered:
            self._was_refused = True
            # Only what is written is forgotten: where this is cancelled at the end of the process, or the store is
            # away, a later flush writes it.
            with suppress(StoreError):
                await self._turns.mark_delivered(sorted(delivered))
                self._delivered -= delivered
                self._was_refused = False
        for turn_id, mark in list(self._marks):
            if not await self._write(turn_id, mark):
                self._was_refused = True
                break

    async def _mark(self, turn_id: TurnId, mark: TurnMark) -> None:
        await self._write(turn_id, mark)

    async def _write(self, turn_id: TurnId, mark: TurnMark) -> bool:
        """Write a mark that nobody else writes; False where the database does not take it."""
        key = turn_id, mark
        waiting = self._marks.get(key)
        if waiting is None or key in self._writing:
            return True
        principal, made = waiting
        self._writing.add(key)
        try:
            await self._turns.mark(principal, turn_id, mark, timedelta(seconds=self._clock.monotonic() - made))
        except StoreError:
            return False
        else:
            if self._marks.get(key) is waiting:
                del self._marks[key]
            return True
        finally:
            self._writing.discard(key)
            if key in self._marks:  # refused, cancelled, or made again meanwhile
                self._has_news.set()
