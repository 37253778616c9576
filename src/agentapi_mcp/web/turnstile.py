"""Lets requests begin a few at a time, so that a crowd of one sender's keeps nobody else waiting."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.web.mounts import Mount, Refusal
from agentapi_mcp.web.requests import ARRIVAL, Arrival

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
# Of all senders together; each request counts with what it takes up besides its head and the body that is here.
MOST_BYTES_WAITING = 64 * 1024 * 1024
BYTES_OF_ONE = 8 * 1024
LONGEST_WAIT = 30.0  # seconds; most clients give up after a minute
_YOUNG_FOR = 1.0
# Seconds of work that crowds may have saved up, or owe.
_MOST_SAVED, _MOST_OWED = 0.001, 0.05
_CROWDED = Refusal(
    status=HTTPStatus.TOO_MANY_REQUESTS,
    message="Too many of your requests wait to begin: send fewer at once.",
    headers={"retry-after": "1"},
)
# For the log: nobody hears it.
_GONE = Refusal(status=HTTPStatus.REQUEST_TIMEOUT, message="The client is gone.")


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
        self._bytes_waiting = 0
        self._turns = _Turns(now)
        self._budget = _Budget(now, busy)
        self._last_few = _LastFew()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, sender: Sender, arrival: Arrival | None = None) -> Passage | None:
        """Return when a request may begin, which is at once unless many come together; `leave` must follow.

        None if too much of the sender's waits already, it has waited for too long, or its client is gone meanwhile.
        """
        line = self._lines.get(sender.who)
        if line is None:
            line = self._lines[sender.who] = _Line(sender)
        self._count_this_turn()
        if self._left > 0 and not self._waiting and self._may_begin(line, 1):
            return self._begin(line)
        if len(line.waiting) >= MOST_WAITING and not self._drop_gone(line):
            return None
        place = _Place(self._now(), arrival, BYTES_OF_ONE + (0 if arrival is None else arrival.hold()))
        if not self._make_room(line, place.bytes):
            return None
        line.waiting.append(place)
        line.bytes_waiting += place.bytes
        self._bytes_waiting += place.bytes
        self._lines[sender.who] = self._waiting[sender.who] = line
        try:
            return await place.turn
        except asyncio.CancelledError:
            passage = place.turn.result() if place.is_over() else None
            if passage is not None:  # it may begin, and never will
                self.leave(passage)
            raise

    def _make_room(self, line: "_Line", bytes_: int) -> bool:
        """Make room for one more in a line, by refusing the last of whoever takes up most; False if that is its own."""
        while self._bytes_waiting + bytes_ > MOST_BYTES_WAITING:
            longest = max(self._waiting.values(), key=lambda each: each.bytes_waiting, default=line)
            if longest.bytes_waiting <= line.bytes_waiting + bytes_:
                return False
            self._refuse(longest, longest.waiting.pop())
        return True

    def _drop_gone(self, line: "_Line") -> bool:
        """Take out of a line whose clients are gone; return whether there was one."""
        now = self._now()
        if now < line.looked_at + CROWD_EVERY:  # it takes a system call for each
            return False
        line.looked_at = now
        places, line.waiting = line.waiting, deque[_Place]()
        for place in places:
            if place.is_left():
                self._refuse(line, place)
            else:
                line.waiting.append(place)
        return len(line.waiting) < len(places)

    def _refuse(self, line: "_Line", place: "_Place") -> None:
        """Refuse a request that was taken out of a line."""
        self._count_out(line, place)
        if not place.turn.done():
            place.turn.set_result(None)
        if not line.waiting:
            self._waiting.pop(line.sender.who, None)
            self._forget_if_idle(line)

    def _count_out(self, line: "_Line", place: "_Place") -> None:
        line.bytes_waiting -= place.bytes
        self._bytes_waiting -= place.bytes

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
            first = line.waiting[0]
            if first.is_left():
                self._refuse(line, line.waiting.popleft())
            elif self._may_begin(line, len(line.waiting)):
                self._count_out(line, line.waiting.popleft())
                first.turn.set_result(self._begin(line))
                held_back = 0
            else:
                held_back += 1
                if first.since <= self._now() - LONGEST_WAIT:
                    self._refuse(line, line.waiting.popleft())
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


@dataclass(slots=True)
class _Place:
    """A request in line: since when, what is known of its arrival, and the bytes that it takes up."""

    since: float
    arrival: Arrival | None
    bytes: int
    turn: asyncio.Future[Passage | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def is_over(self) -> bool:
        """Whether it has been told whether it may begin."""
        return self.turn.done() and not self.turn.cancelled()

    def is_left(self) -> bool:
        """Whether nobody waits for it any more: it was cancelled, or its client is gone."""
        return self.turn.done() or (self.arrival is not None and self.arrival.is_gone())


@dataclass(slots=True)
class _Line:
    """The requests of a sender: those that wait, how many are under way, and how many of these began just now."""

    sender: Sender
    waiting: deque[_Place] = field(default_factory=deque[_Place])
    bytes_waiting: int = 0
    looked_at: float = float("-inf")  # when it was searched for clients who are gone
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


class Paced:
    """Middleware that lets requests begin by a turnstile; `sender_of` tells whose they are, as far as that is known."""

    def __init__(self, app: ASGIApp, mount: Mount, turnstile: Turnstile, sender_of: Callable[[Scope], Sender]) -> None:
        self._app = app
        self._mount = mount
        self._turnstile = turnstile
        self._sender_of = sender_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        arrival: Arrival | None = scope.get(ARRIVAL)
        passage = await self._turnstile.enter(self._sender_of(scope), arrival)
        if passage is None:
            is_gone = arrival is not None and arrival.is_gone()
            await self._mount.render(_GONE if is_gone else _CROWDED)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._turnstile.leave(passage)
