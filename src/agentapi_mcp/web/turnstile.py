"""Lets requests begin a few at a time, so that a crowd of one sender's keeps nobody else waiting."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.web.mounts import Mount, Refusal
from agentapi_mcp.web.requests import GONE

# How many begin in a turn of the event loop. One takes about a millisecond to its first wait; what is under way has its
# part of each turn, too.
AT_ONCE = 8
# Whoever has more requests than this in line, or begun within the last second, is a crowd.
MOST_OF_FEW = 8
# While somebody is there who is none: the part of all time for which the loop may work when a crowd's request begins.
CROWD_PART = 0.4
# Otherwise: the seconds that a turn of the loop may take, and how many of a crowd's requests may have begun within the
# last second and not be served yet, so that whoever comes next waits for little.
LONGEST_TURN = 0.01
MOST_YOUNG = 64
# Seconds: each crowd begins a request in each of these, however busy the loop is.
CROWD_EVERY = 0.1
# Seconds for which somebody counts as there after a request of theirs began.
REMEMBERED_FOR = 10.0
MOST_WAITING = 2000  # requests of a sender
LONGEST_WAIT = 30.0  # seconds; most clients give up after a minute
_YOUNG_FOR = 1.0
# Seconds of work that crowds may have saved up, or owe.
_MOST_SAVED, _MOST_OWED = 0.001, 0.05
_CROWDED = Refusal(
    status=HTTPStatus.TOO_MANY_REQUESTS,
    message="Too many of your requests wait to begin: send fewer at once.",
    headers={"retry-after": "1"},
)


class Sender(NamedTuple):
    """Whose a request is; `is_known` if they have sent a valid token before."""

    who: Hashable
    is_known: bool


@dataclass(slots=True)
class Passage:
    """A request that has begun."""

    line: "_Line"
    since: float
    is_young: bool = True


class Turnstile:
    """Lets requests begin, over all mounts.

    Senders take turns, each in the order in which their requests came. A few requests of a sender always begin at once.
    A crowd of them begins only as fast as leaves the loop idle for most of the time, while somebody else is there who
    sends few; and among crowds, as fast as the turns of the loop stay short. `now` and `busy` tell seconds: those that
    pass, and those that the loop's thread has worked.
    """

    def __init__(
        self,
        at_once: int = AT_ONCE,
        now: Callable[[], float] = time.monotonic,
        busy: Callable[[], float] = time.thread_time,
    ) -> None:
        self._at_once = at_once
        self._left = at_once
        self._now = now
        self._lines = dict[Hashable, _Line]()
        self._waiting = OrderedDict[Hashable, _Line]()
        self._turns = _Turns(now)
        self._budget = _Budget(now, busy)
        self._last_few = _LastFew()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, sender: Sender, gone: asyncio.Future[None] | None = None) -> Passage | None:
        """Return when a request may begin, which is at once unless many come together; `leave` must follow.

        None if too many of the sender's wait already, it has waited for too long, or its client is gone meanwhile.
        """
        line = self._lines.get(sender.who)
        if line is None:
            line = self._lines[sender.who] = _Line(sender)
        self._count_this_turn()
        if self._left > 0 and not self._waiting and self._may_begin(line, 1):
            return self._begin(line)
        if len(line.waiting) >= MOST_WAITING:
            return None
        turn: asyncio.Future[Passage | None] = asyncio.get_running_loop().create_future()
        line.waiting[turn] = self._now()
        self._waiting[sender.who] = line
        try:
            with _at_end_of(gone, lambda: self._give_up(line, turn)):
                return await turn
        except asyncio.CancelledError:
            passage = turn.result() if turn.done() and not turn.cancelled() else None
            if passage is not None:  # it may begin, and never will
                self.leave(passage)
            raise

    def _give_up(self, line: "_Line", turn: asyncio.Future[Passage | None]) -> None:
        """Take a request out of the line."""
        if line.waiting.pop(turn, None) is None:  # it is no longer in line
            return
        if not turn.done():
            turn.set_result(None)
        if not line.waiting:
            del self._waiting[line.sender.who]
            self._forget_if_idle(line)

    def _forget_if_idle(self, line: "_Line") -> None:
        if not line.under_way and not line.waiting:
            self._lines.pop(line.sender.who, None)

    def leave(self, passage: Passage) -> None:
        """Note that a request has been served."""
        line = passage.line
        line.under_way -= 1
        if passage.is_young:
            passage.is_young = False
            line.young -= 1
        self._forget_if_idle(line)

    def _begin(self, line: "_Line") -> Passage:
        self._left -= 1
        return line.begin(self._now())

    def _may_begin(self, line: "_Line", waiting: int) -> bool:
        now = self._now()
        line.is_crowd = line.count_young(now) + waiting > MOST_OF_FEW
        if not line.is_crowd:
            if line.sender.is_known:
                self._last_few.note(line.sender.who, now)
            return True
        if now >= line.began_at + CROWD_EVERY:
            return True
        if self._last_few.time(self._is_crowd) >= now - REMEMBERED_FOR:
            return self._budget.spend()
        return line.young < MOST_YOUNG and self._turns.last <= LONGEST_TURN

    def _is_crowd(self, who: Hashable) -> bool:
        line = self._lines.get(who)
        return line is not None and line.is_crowd

    def _count_this_turn(self) -> None:
        if self._turns.count():
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._turns.end()
        self._budget.begin_turn()
        self._left = self._at_once
        held_back, has_refused = 0, False
        while self._left > 0 and held_back < len(self._waiting):
            who, line = self._waiting.popitem(last=False)
            if line.first().done():  # its request was cancelled just now
                line.pop()
            elif self._may_begin(line, len(line.waiting)):
                line.pop().set_result(self._begin(line))
                held_back = 0
            else:
                held_back += 1
                if line.waiting[line.first()] <= self._now() - LONGEST_WAIT:
                    line.pop().set_result(None)
                    has_refused = True
            if line.waiting:
                self._waiting[who] = line  # behind the others
            else:
                self._forget_if_idle(line)
        if self._waiting:
            self._go_on_later(at_once=has_refused)

    def _go_on_later(self, *, at_once: bool) -> None:
        if at_once or self._left == 0 or self._turns.last > LONGEST_TURN:
            self._count_this_turn()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._budget.wait(), self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        self._count_this_turn()


_Waiting = OrderedDict[asyncio.Future[Passage | None], float]


@dataclass(slots=True)
class _Line:
    """The requests of a sender: those that wait, how many are under way, and how many of these began just now."""

    sender: Sender
    waiting: _Waiting = field(default_factory=_Waiting)  # and since when
    under_way: int = 0
    young: int = 0
    is_crowd: bool = False
    began_at: float = float("-inf")
    _begun: deque[Passage] = field(default_factory=deque[Passage])

    def begin(self, now: float) -> Passage:
        passage = Passage(self, now)
        self._begun.append(passage)
        self.under_way += 1
        self.young += 1
        self.began_at = now
        return passage

    def first(self) -> asyncio.Future[Passage | None]:
        """Return what the first one waits for."""
        return next(iter(self.waiting))

    def pop(self) -> asyncio.Future[Passage | None]:
        """Take the first one out of the line."""
        return self.waiting.popitem(last=False)[0]

    def count_young(self, now: float) -> int:
        # A stream, or a chat whose model thinks, is under way for long and costs little.
        while self._begun and (not self._begun[0].is_young or self._begun[0].since <= now - _YOUNG_FOR):
            passage = self._begun.popleft()
            if passage.is_young:
                passage.is_young = False
                self.young -= 1
        return self.young


class _Turns:
    """How long the last turn of the event loop took that was counted."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.last = 0.0
        self._now = now
        self._since: float | None = None

    def count(self) -> bool:
        """Count from now until the loop has turned; return whether nobody does that yet."""
        if self._since is not None:
            return False
        self._since = self._now()
        return True

    def end(self) -> None:
        self.last = 0.0 if self._since is None else self._now() - self._since
        self._since = None


class _Budget:
    """Seconds for which the loop may still work before another request of a crowd has to wait."""

    def __init__(self, now: Callable[[], float], busy: Callable[[], float]) -> None:
        self.is_spent = False
        self._now = now
        self._busy = busy
        self._counted_at, self._counted_busy = now(), busy()
        self._left = 0.0

    def begin_turn(self) -> None:
        self.is_spent = False

    def spend(self) -> bool:
        """Let one of a crowd's requests begin in this turn of the loop, if something is left."""
        if self.is_spent:  # what one costs is known only afterwards
            return False
        self.is_spent = True
        now, busy = self._now(), self._busy()
        earned = (now - self._counted_at) * CROWD_PART - (busy - self._counted_busy)
        self._counted_at, self._counted_busy = now, busy
        self._left = min(_MOST_SAVED, max(-_MOST_OWED, self._left + earned))
        return self._left >= 0

    def wait(self) -> float:
        """Return the seconds until something is left, if the loop rests."""
        return min(CROWD_EVERY, max(0.001, -self._left / CROWD_PART))


class _LastFew:
    """When somebody began a request last who sends few, and who else did before them."""

    def __init__(self) -> None:
        self._last: tuple[Hashable, float] = (None, float("-inf"))
        self._other: tuple[Hashable, float] = (None, float("-inf"))

    def note(self, who: Hashable, now: float) -> None:
        if who != self._last[0]:
            self._other = self._last
        self._last = (who, now)

    def time(self, is_crowd: Callable[[Hashable], bool]) -> float:
        # Who has become a crowd since then counts no longer.
        return max((at for who, at in (self._last, self._other) if not is_crowd(who)), default=float("-inf"))


@contextmanager
def _at_end_of(future: asyncio.Future[None] | None, do: Callable[[], None]) -> Generator[None]:
    """Do something as soon as a future is done, if that is within the context."""
    if future is None:
        yield
        return

    def done(_: asyncio.Future[None]) -> None:
        do()

    future.add_done_callback(done)
    try:
        yield
    finally:
        future.remove_done_callback(done)


class Paced:
    """Middleware that lets requests begin by a turnstile; `sender_of` tells whose they are, as far as that is known."""

    def __init__(self, app: ASGIApp, mount: Mount, turnstile: Turnstile, sender_of: Callable[[Scope], Sender]) -> None:
        self._app = app
        self._mount = mount
        self._turnstile = turnstile
        self._sender_of = sender_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        passage = await self._turnstile.enter(self._sender_of(scope), scope.get(GONE))
        if passage is None:
            await self._mount.render(_CROWDED)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._turnstile.leave(passage)
