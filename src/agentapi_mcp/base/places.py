"""A limited number of places for concurrent work, shared fairly."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from types import TracebackType


class Places:
    """Places for work on one resource: urgent work goes first, and no key takes all of them.

    `reserved` of the places are for urgent work alone, and each key holds at most `per_key`. Keys that wait take turns.
    """

    def __init__(self, total: int, *, reserved: int, per_key: int) -> None:
        self._total = total
        self._shared = total - reserved
        self._per_key = per_key
        self._taken = 0
        self._held = dict[Hashable, int]()  # of those that have any
        self._held_in_all = 0
        self._urgent = deque[asyncio.Future[None]]()
        self._waiting = OrderedDict[Hashable, deque[asyncio.Future[None]]]()

    def urgent(self) -> "Place":
        """Hold a place for urgent work within the context."""
        return Place(self, None)

    def of(self, key: Hashable) -> "Place":
        """Hold a place for other work on behalf of a key within the context."""
        return Place(self, key)

    async def acquire(self, key: Hashable | None) -> None:
        """Wait for a place on behalf of a key, or for urgent work if it is None."""
        if not self.acquire_now(key):
            turn = asyncio.get_running_loop().create_future()
            line = self._urgent if key is None else self._waiting.setdefault(key, deque())
            line.append(turn)
            await self._wait(turn, key)

    def acquire_now(self, key: Hashable | None) -> bool:
        """Take a place on the same terms; False if it must be waited for."""
        if self._urgent:
            return False
        if key is None:
            has_room = self._taken < self._total
            self._taken += has_room
            return has_room
        if key in self._waiting or not self._has_room(key):
            return False
        self._take(key)
        return True

    def release(self, key: Hashable | None) -> None:
        """Give a place back to whoever waits."""
        self._taken -= 1
        if key is not None:
            self._held_in_all -= 1
            if (left := self._held[key] - 1) == 0:
                del self._held[key]
            else:
                self._held[key] = left
        self._admit()

    async def _wait(self, turn: asyncio.Future[None], key: Hashable | None) -> None:
        try:
            await turn
        except asyncio.CancelledError:
            # It may have been given the place in the same moment: then the next one gets it.
            if turn.done() and not turn.cancelled():
                self.release(key)
            raise

    def _has_room(self, key: Hashable) -> bool:
        has_place = self._taken < self._total and self._held_in_all < self._shared
        return has_place and self._held.get(key, 0) < self._per_key

    def _take(self, key: Hashable) -> None:
        self._taken += 1
        self._held_in_all += 1
        self._held[key] = self._held.get(key, 0) + 1

    def _admit(self) -> None:
        while self._urgent and self._taken < self._total:
            turn = self._urgent.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
        while self._waiting and not self._urgent and self._admit_one():
            pass

    def _admit_one(self) -> bool:
        for key, turns in tuple(self._waiting.items()):
            while turns and turns[0].done():  # its caller went away
                turns.popleft()
            if not turns:
                del self._waiting[key]
            elif self._has_room(key):
                self._take(key)
                turns.popleft().set_result(None)
                self._waiting.move_to_end(key)
                if not turns:
                    del self._waiting[key]
                return True
        return False


class Place:
    """A context with a place; a class, since each turn has several, and a generator costs more."""

    __slots__ = ("_key", "_places")

    def __init__(self, places: Places, key: Hashable | None) -> None:
        self._places = places
        self._key = key

    async def __aenter__(self) -> None:
        """Wait for a place."""
        await self._places.acquire(self._key)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self._places.release(self._key)
