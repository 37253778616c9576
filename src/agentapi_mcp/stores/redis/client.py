"""Redis client with short deadlines, no retries, and a short backoff after a connection failure."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from enum import IntEnum
from typing import TypeVar
from uuid import uuid4

from redis import exceptions as faults
from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import ConfigurationError, StoreUnavailableError
from agentapi_mcp.stores.redis.addresses import DEADLINE, is_cluster, open_connections
from agentapi_mcp.stores.redis.keys import PROBE, Key, keeps_slots

T = TypeVar("T")
_log = logging.getLogger(__name__)
# Of one XREAD; it ends sooner when an event arrives.
_BLOCK = timedelta(seconds=2)
_BACKOFF = timedelta(seconds=2)
_VARIABLE = "AGENTAPI_REDIS_URL"

# The first matching class gives the reason; `_CONNECTION_ERRORS` also start the backoff.
_FAULTS: tuple[tuple[type[BaseException], str], ...] = (
    (faults.AuthenticationError, "it refuses the user or password of {variable}"),
    (faults.NoPermissionError, "the user of {variable} may not do what is needed (ACL)"),
    (faults.OutOfMemoryError, "it is out of memory (maxmemory), so nothing new is cached"),
    (faults.ReadOnlyError, "it is a read-only replica; {variable} must name the primary"),
    (faults.BusyLoadingError, "it is still loading its data"),
    (faults.InvalidResponse, "what answers at {variable} is not Redis"),
    (faults.TimeoutError, "it does not answer in time"),
    (TimeoutError, "it does not answer in time"),
    (MasterNotFoundError, "its sentinels know of no primary of this name that is up"),
    (faults.ClusterDownError, "its cluster is down, or is choosing another primary"),
    (faults.RedisClusterException, "no node of its cluster can be used, or it is no cluster"),
    (faults.ConnectionError, "it cannot be reached"),
    (OSError, "it cannot be reached"),
    (faults.ResponseError, "it refuses a command"),
    (faults.RedisError, "it failed"),
)
_ALL_ERRORS = (faults.RedisError, faults.RedisClusterException, OSError, TimeoutError, ValueError)
_CONNECTION_ERRORS = (
    faults.ConnectionError,
    faults.TimeoutError,
    OSError,
    TimeoutError,
    faults.InvalidResponse,
    faults.ClusterDownError,
    faults.RedisClusterException,
    ValueError,
)
# Of a script, these are about the server, and all else is about scripts.
_NO_WRITES = (faults.OutOfMemoryError, faults.ReadOnlyError)


class _Call(IntEnum):
    """What a call needs of the server; each kind needs more than the one before."""

    READ = 0
    WRITE = 1
    SCRIPT = 2


class RedisClient:
    """Runs commands, and returns a default where Redis fails; opened with `open_redis`."""

    def __init__(self, redis: Redis, prefix: str, clock: Clock, variable: str = _VARIABLE) -> None:
        self.prefix = prefix
        self.is_cluster = is_cluster(redis)
        self._variable = variable
        self._redis = redis
        self._clock = clock
        self._backoff_until = 0.0
        self._fault: str | None = None
        self._fault_of = _Call.READ

    def key(self, kind: Key, *ids: object) -> str:
        """Return the name of a key."""
        return kind.name(self.prefix, *ids)

    @property
    def is_backing_off(self) -> bool:
        """Whether no command is sent for now, after a connection failure."""
        return self._clock.monotonic() < self._backoff_until

    async def read(self, work: Callable[[Redis], Awaitable[T]], default: T) -> T:
        """Run a read; return the default if it fails."""
        return await self._attempt(work, default, _Call.READ)

    async def write(self, work: Callable[[Redis], Awaitable[object]]) -> bool:
        """Run a write; return False if it fails."""

        async def done(redis: Redis) -> bool:
            await work(redis)
            return True

        return await self._attempt(done, default=False, call=_Call.WRITE)

    async def script(self, work: Callable[[Redis], Awaitable[T]]) -> T | None:
        """Run a script that writes; return None if it fails."""
        return await self._attempt(work, None, _Call.SCRIPT)

    async def probe(self) -> None:
        """Ask for a write that changes nothing: the value of a key that is not there, if it is there.

        Raises:
            StoreUnavailableError: Redis fails; the message says why.
        """
        key = self.key(PROBE, uuid4().hex)
        try:
            async with asyncio.timeout(DEADLINE * 2):
                # A server that is full, read-only or closed to this user refuses it like any other write.
                await self._redis.set(key, "1", ex=PROBE.lifetime, xx=True)
        except _ALL_ERRORS as exc:
            self._note(exc, _Call.WRITE)
            await self._look_for_nodes_after(exc)
            raise StoreUnavailableError(f"{_meaning(exc, self._variable)}; the server works on without it") from exc
        self._note_success(_Call.WRITE)

    async def _attempt(self, work: Callable[[Redis], Awaitable[T]], default: T, call: _Call) -> T:
        if self.is_backing_off:
            return default
        try:
            async with asyncio.timeout(DEADLINE * 2):
                result = await work(self._redis)
        except _ALL_ERRORS as exc:
            self._note(exc, call)
            await self._look_for_nodes_after(exc)
            return default
        self._note_success(call)
        return result

    async def _look_for_nodes_after(self, exc: BaseException) -> None:
        # A pipeline that is not tried again leaves the library with the nodes that it knew, dead ones too.
        if self.is_cluster and isinstance(exc, _CONNECTION_ERRORS):
            with suppress(*_ALL_ERRORS):
                async with asyncio.timeout(DEADLINE):
                    await self._redis.aclose()

    def _note(self, exc: BaseException, call: _Call) -> None:
        if isinstance(exc, _CONNECTION_ERRORS):
            self._backoff_until = self._clock.monotonic() + _BACKOFF.total_seconds()
        meaning = _meaning(exc, self._variable)
        # Once when a fault begins or changes, not for every call.
        if self._fault != meaning:
            _log.warning("redis_unavailable", extra={"reason": meaning, "error": type(exc).__name__})
        if isinstance(exc, _CONNECTION_ERRORS):
            self._fault_of = _Call.READ
        else:
            self._fault_of = min(call, _Call.WRITE) if isinstance(exc, _NO_WRITES) else call
        self._fault = meaning

    def _note_success(self, call: _Call) -> None:
        self._backoff_until = 0.0
        # A full or read-only server still answers reads, and one may write without the right to run scripts: what
        # needs less does not end the fault.
        if self._fault is not None and call >= self._fault_of:
            _log.warning("redis_back", extra={"was": self._fault})
            self._fault = None


@asynccontextmanager
async def open_redis(url: str, prefix: str, clock: Clock, variable: str = _VARIABLE) -> AsyncGenerator[RedisClient]:
    """Open a client; the server need not be reachable. Messages name `variable`, which has the URL.

    Raises:
        ConfigurationError: the URL is not a Redis URL, or the prefix does not fit a cluster.
    """
    # No time limit of the library's own, which costs a task and a timer for each command: that of the call ends it, and
    # the library closes the connection of a command that is cancelled.
    async with open_connections(url, deadline=None, variable=variable) as redis:
        if is_cluster(redis) and not keeps_slots(prefix):
            raise ConfigurationError(
                "AGENTAPI_REDIS_PREFIX has a brace, which in a cluster begins a hash tag: leave it out, or write a "
                "whole one, as in {agentapi}:."
            )
        yield RedisClient(redis, prefix, clock, variable)


@asynccontextmanager
async def open_blocking(url: str) -> AsyncGenerator[Redis]:
    """Open connections for commands that block at the server, for up to `block_milliseconds`."""
    async with open_connections(url, deadline=_BLOCK.total_seconds() + DEADLINE, variable=_VARIABLE) as redis:
        yield redis


def block_milliseconds() -> int:
    """Return the longest time that a blocking command waits at the server, in milliseconds."""
    return int(_BLOCK.total_seconds() * 1000)


def _meaning(exc: BaseException, variable: str) -> str:
    """Return the reason of an error or of its cause: the library wraps connection errors in less specific ones."""
    chain = [exc]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    reasons = (meaning for kind, meaning in _FAULTS if any(isinstance(one, kind) for one in chain))
    return next(reasons, "it failed").format(variable=variable)
