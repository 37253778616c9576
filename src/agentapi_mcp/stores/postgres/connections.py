"""Who may use the connections of a process to its database: two lanes, neither of which can stop the other."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum

import asyncpg

from agentapi_mcp.base.ids import UserId
from agentapi_mcp.base.places import Places
from agentapi_mcp.stores.postgres.hosts import Hosts
from agentapi_mcp.stores.postgres.pool import Pool, Row
from agentapi_mcp.stores.postgres.poolers import stands_before

# How long a process that the server refuses a connection waits before it asks again.
_ASK_AGAIN = timedelta(milliseconds=100)
# What is waited for: the server has none left, or of several servers none is the primary, as during a failover.
_NOT_YET = (asyncpg.TooManyConnectionsError, asyncpg.TargetServerAttributeNotMatched)


class Lane(StrEnum):
    """What a connection is used for; each lane has connections that the other one cannot take."""

    CALLS = "calls"
    # Who somebody is, and whether this process is ready: known also while one user's calls hold all other connections.
    RESERVED = "reserved"


def reserved_of(size: int) -> int:
    """Return how many connections of a pool are reserved; a single one serves both lanes."""
    return 0 if size == 1 else max(1, size // 10)


def most_at_once(size: int) -> int:
    """Return how many of so many connections one user may have: all but an eighth, and at least one."""
    return max(1, size * 7 // 8)


class Connections:
    """Hands out the connections of a pool, at most `size` at once; the one place where they are acquired.

    A user has most of them at most, and waits in a line of their own; the program's own work, of no user, goes first.
    A connection beyond the server's own limit is waited for, as one beyond `size` is, and so is a primary.
    """

    def __init__(self, pool: Pool, size: int, timeout: timedelta) -> None:
        self._pool = pool
        self._timeout = timeout.total_seconds()
        reserved = reserved_of(size)
        calls = _Line(pool, size - reserved)
        self._lines = {Lane.CALLS: calls, Lane.RESERVED: _Line(pool, reserved) if reserved else calls}
        self.hosts: Hosts | None = None  # to which the connections of the pool lead
        self.is_standby = False

    @property
    def has_several_hosts(self) -> bool:
        """Whether another server may be the primary by now."""
        return self.hosts is not None and self.hosts.are_several

    async def acquire(self, lane: Lane, user: UserId | None = None) -> "asyncpg.Connection[Row]":
        """Wait for a connection of a lane.

        Raises:
            TimeoutError: there was none in time.
            asyncpg.TooManyConnectionsError: the server has none left, and none was given back in time.
            asyncpg.TargetServerAttributeNotMatched: no server became the primary in time.
        """
        line = self._lines[lane]
        # Nearly always there is one, and no time limit is needed, which costs more than all else here.
        raw = line.take_idle(user)
        if raw is not None:
            return raw
        try:
            async with asyncio.timeout(self._timeout):
                return await line.acquire(user)
        except TimeoutError as exc:
            if line.refusal is not None:
                raise line.refusal from exc
            raise

    def release(self, raw: "asyncpg.Connection[Row]", lane: Lane, user: UserId | None = None) -> None:
        """Give a connection back, once."""
        self._pool.release(raw)
        self._lines[lane].leave(user)
        for line in self._lines.values():
            line.look()

    def note(self, failure: BaseException, raw: "asyncpg.Connection[Row]") -> None:
        """Note how a statement failed: after a failover, no connection that was made before is used again."""
        # A server that was demoted reads on. One that is cut off says nothing, and another may be the primary by now.
        # During a commit, what the driver raised is the cause of an error of ours.
        doubtful = (asyncpg.ReadOnlySQLTransactionError, *([TimeoutError] if self.has_several_hosts else []))
        is_doubtful = isinstance(failure, doubtful) or isinstance(failure.__cause__, doubtful)
        # What several connections have to say of the same server counts once.
        if is_doubtful and not self._pool.is_outdated(raw):
            if self.hosts is not None:
                self.hosts.doubt_primary()
            self._pool.renew()

    def on_renewal(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call the listener when connections that were made before are not used again, until the result is called."""
        return self._pool.on_renewal(listener)

    async def probe(self, *, look_for_pooler: bool = False) -> bool:
        """Connect once: a wrong address or login fails here. Return whether a pooler was looked for, and is there."""
        raw = await self.acquire(Lane.CALLS)
        try:
            return look_for_pooler and await stands_before(raw)
        finally:
            self.release(raw, Lane.CALLS)


class _Line:
    """Those who wait for a connection of one lane."""

    def __init__(self, pool: Pool, size: int) -> None:
        self.refusal: Exception | None = None
        self._pool = pool
        self._places = Places(size, reserved=0, per_key=most_at_once(size))
        self._refused = asyncio.Lock()
        self._given_back = asyncio.Event()

    async def acquire(self, user: UserId | None) -> "asyncpg.Connection[Row]":
        await self._places.acquire(user)
        try:
            # Whoever comes later does not overtake those whom the server has refused a connection.
            return await self._wait() if self._refused.locked() else await self._ask()
        except BaseException:
            self._places.release(user)
            raise

    def take_idle(self, user: UserId | None) -> "asyncpg.Connection[Row] | None":
        """Return a connection that is there; None if it must be waited for."""
        if self._refused.locked() or not self._places.acquire_now(user):
            return None
        raw = self._pool.take_idle()
        if raw is None:
            self._places.release(user)
        else:
            self.refusal = None
        return raw

    def leave(self, user: UserId | None) -> None:
        self._places.release(user)

    def look(self) -> None:
        """Let who waits for the server ask again, since a connection of this process was given back."""
        self._given_back.set()

    async def _ask(self) -> "asyncpg.Connection[Row]":
        try:
            return await self._take()
        except _NOT_YET:
            return await self._wait()

    async def _wait(self) -> "asyncpg.Connection[Row]":
        # One at a time: for each attempt the server starts a process.
        async with self._refused:
            while True:
                self._given_back.clear()
                try:
                    return await self._take()
                except _NOT_YET as exc:
                    self.refusal = exc
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ASK_AGAIN.total_seconds()):
                        await self._given_back.wait()

    async def _take(self) -> "asyncpg.Connection[Row]":
        raw = await self._pool.acquire()
        self.refusal = None
        return raw
