"""Lets requests begin a few at a time, and leaves half of the event loop's time to those who send few of them."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from starlette.types import ASGIApp, Receive, Scope, Send

# How many begin in a turn of the event loop. One takes about a millisecond to its first wait; what is under way has its
# part of each turn, too.
AT_ONCE = 8
# Who has more requests than this under way or in line is a crowd.
MOST_OF_FEW = 8
# The part of all time for which the loop may work, on whatever it is, while crowds begin requests beside others.
CROWD_PART = 0.4
# Seconds: one of their requests begins in each of these, however busy others keep the loop.
CROWD_EVERY = 0.05
# Seconds for which somebody counts as there after their last request.
REMEMBERED_FOR = 60.0
# Seconds of work that crowds may have saved up, or owe.
_MOST_SAVED, _MOST_OWED = 0.001, 0.05


class Turnstile:
    """Lets requests begin, over all mounts.

    Senders take turns, each in the order in which their requests came. A sender who is alone may keep the loop busy;
    while others are there, a crowd of requests of one sender begins only as fast as leaves the loop idle for the rest
    of the time. `now` and `busy` tell seconds: those that pass, and those that the loop's thread has worked.
    """

    def __init__(
        self,
        at_once: int = AT_ONCE,
        now: Callable[[], float] = time.monotonic,
        busy: Callable[[], float] = time.thread_time,
    ) -> None:
        self._at_once = at_once
        self._left = at_once
        self._is_crowds_turn = True
        self._now = now
        self._budget = _Budget(now, busy)
        self._under_way = dict[Hashable, int]()
        self._waiting = OrderedDict[Hashable, deque[asyncio.Future[None]]]()
        self._last_seen = _LastSeen()
        self._is_counting = False
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, sender: Hashable) -> None:
        """Return when a request may begin, which is at once unless many come together; `leave` must follow."""
        self._last_seen.note(sender, self._now())
        self._count_this_turn()
        if self._left > 0 and not self._waiting and self._begins(sender, 1):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(sender, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it may begin, and never will
                self.leave(sender)
            raise

    def leave(self, sender: Hashable) -> None:
        """Note that a request has been served."""
        self._under_way[sender] -= 1
        if not self._under_way[sender]:
            del self._under_way[sender]

    def _begins(self, sender: Hashable, waiting: int) -> bool:
        """Let a request of a sender begin who has so many waiting, unless it has to wait."""
        if self._is_crowd(sender, waiting):
            if not self._is_crowds_turn or not self._budget.spend():
                return False
            self._is_crowds_turn = False  # one at a time: what it costs is known only afterwards
        self._left -= 1
        self._under_way[sender] = self._under_way.get(sender, 0) + 1
        return True

    def _is_crowd(self, sender: Hashable, waiting: int) -> bool:
        """Whether so many requests are a crowd beside others who are there."""
        if self._under_way.get(sender, 0) + waiting <= MOST_OF_FEW:
            return False
        are_others_here = len(self._under_way) > (sender in self._under_way)
        return are_others_here or self._last_seen.of_others(sender) >= self._now() - REMEMBERED_FOR

    def _count_this_turn(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_counting = False
        self._left, self._is_crowds_turn = self._at_once, True
        held_back = 0
        while self._left > 0 and held_back < len(self._waiting):
            sender, turns = self._waiting.popitem(last=False)
            if turns[0].done():  # its request was cancelled meanwhile
                turns.popleft()
            elif self._begins(sender, len(turns)):
                turns.popleft().set_result(None)
                held_back = 0
            else:
                held_back += 1
            if turns:
                self._waiting[sender] = turns  # behind the others
        if self._left == 0 and self._waiting:
            self._count_this_turn()
        elif self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._budget.wait(), self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        self._count_this_turn()


class _Budget:
    """Seconds for which the loop may still work before another request of a crowd has to wait."""

    def __init__(self, now: Callable[[], float], busy: Callable[[], float]) -> None:
        self._now = now
        self._busy = busy
        self._counted_at, self._counted_busy = now(), busy()
        self._left = 0.0
        self._spent_at = now()

    def spend(self) -> bool:
        """Let one of a crowd's requests begin, if something is left or the last one was too long ago."""
        now, busy = self._now(), self._busy()
        earned = (now - self._counted_at) * CROWD_PART - (busy - self._counted_busy)
        self._counted_at, self._counted_busy = now, busy
        self._left = min(_MOST_SAVED, max(-_MOST_OWED, self._left + earned))
        if self._left < 0 and now < self._spent_at + CROWD_EVERY:
            return False
        self._spent_at = now
        return True

    def wait(self) -> float:
        """Return the seconds until something is left, if the loop rests."""
        return min(CROWD_EVERY, max(0.001, -self._left / CROWD_PART))


class _LastSeen:
    """When the last sender was there, and the last one beside them."""

    def __init__(self) -> None:
        self._last: tuple[Hashable, float] = (None, float("-inf"))
        self._other: tuple[Hashable, float] = (None, float("-inf"))

    def note(self, sender: Hashable, now: float) -> None:
        if sender != self._last[0]:
            self._other = self._last
        self._last = (sender, now)

    def of_others(self, sender: Hashable) -> float:
        return (self._other if sender == self._last[0] else self._last)[1]


class Paced:
    """Middleware that lets requests begin by a turnstile; `sender_of` tells whose they are, as far as that is known."""

    def __init__(self, app: ASGIApp, turnstile: Turnstile, sender_of: Callable[[Scope], Hashable]) -> None:
        self._app = app
        self._turnstile = turnstile
        self._sender_of = sender_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        sender = self._sender_of(scope)
        await self._turnstile.enter(sender)
        try:
            await self._app(scope, receive, send)
        finally:
            self._turnstile.leave(sender)
