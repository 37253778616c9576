"""What the turns of this process write to Redis: gathered for a moment, and sent together; no turn waits for it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import guarded
from agentapi_mcp.stores.redis.client import RedisClient

# Twenty pipelines a second: each one is a round trip, and agents stream in small pieces.
_GATHER = timedelta(seconds=0.05)

Command = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Commands, and what hears their results in the same order: an exception for each that was refused."""

    commands: Sequence[Command]
    heard: Callable[[Sequence[object]], None] = lambda _: None


class Source(Protocol):
    """What has something to write."""

    def take(self) -> Batch:
        """Return what is to be written now, and forget it: what cannot be written is lost."""
        ...


class GatheredWrites:
    """Sends what sources have gathered; within `running`, a moment after the first of them has called `note`."""

    def __init__(self, client: RedisClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._sources: list[Source] = []
        self._has_more = asyncio.Event()
        self._in_flight = asyncio.Lock()
        self._is_closing = False

    def add(self, source: Source) -> None:
        """Ask this source, too."""
        self._sources.append(source)

    def note(self) -> None:
        """Note that a source has something to write."""
        self._has_more.set()

    async def flush(self) -> None:
        """Send what has been gathered, and what follows from the results."""
        await self._send_once()
        while self._has_more.is_set():
            await self._send_once()

    async def after_flight(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do the work once no write is on its way, so that none of them is done after it; later ones wait."""
        async with self._in_flight:
            await work()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Send until the context ends, and then what is left."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run())
            try:
                yield
            finally:
                # By flag, so that a pipeline which is on its way is not cut short.
                self._is_closing = True
                self.note()
                await guarded(self.flush())

    async def _run(self) -> None:
        while not self._is_closing:
            await self._has_more.wait()
            if not self._is_closing:
                await self._clock.sleep(_GATHER)
            # Once: what comes meanwhile is gathered, too. A busy process would never wait otherwise.
            await guarded(self._send_once())

    async def _send_once(self) -> None:
        async with self._in_flight:
            self._has_more.clear()
            await self._send([source.take() for source in self._sources])

    async def _send(self, batches: Sequence[Batch]) -> None:
        commands = [command for batch in batches for command in batch.commands]
        if not commands:
            return

        async def send(redis: Redis) -> None:
            # No MULTI: each entry of a stream or a history says what it follows, so that a gap is seen.
            async with redis.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
                results = cast("list[object]", await pipe.execute(raise_on_error=False))
            _tell(batches, results)
            for result in results:
                if isinstance(result, RedisError):
                    raise result

        await self._client.write(send)


@asynccontextmanager
async def open_gathered(client: RedisClient, clock: Clock) -> AsyncGenerator[GatheredWrites]:
    """Open the writes of a process; leaving the context sends what is left."""
    gathered = GatheredWrites(client, clock)
    async with gathered.running():
        yield gathered


def _tell(batches: Sequence[Batch], results: Sequence[object]) -> None:
    begin = 0
    for batch in batches:
        end = begin + len(batch.commands)
        batch.heard(results[begin:end])
        begin = end
