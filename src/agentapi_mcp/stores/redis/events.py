"""Live events of running turns, one Redis stream per turn, readable from its start by any process."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError
from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import guarded
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.core.backends.events import TextDelta, ThoughtDelta, ToolActivity, ToolState
from agentapi_mcp.core.conversations.models import TurnEnded, TurnEvent
from agentapi_mcp.core.conversations.ports import TurnEvents
from agentapi_mcp.stores.redis.client import RedisClient, block_milliseconds, open_blocking
from agentapi_mcp.stores.redis.keys import TURN_EVENTS

# Bounds the memory while Redis is slow; events that do not fit are dropped.
_QUEUE_SIZE = 20_000
_WRITE_BATCH = 5_000
_READ_BATCH = 500
# Entries of one stream; a follower who misses trimmed ones reads the text from Postgres.
_MAX_STREAM_LENGTH = 20_000
_RETRY_DELAY = timedelta(seconds=1)
# Twenty batches a second: each one is a round trip, and agents stream in small pieces.
_BATCH_DELAY = timedelta(seconds=0.05)

Entry = tuple[TurnId, int, TurnEvent]


class RedisTurnEvents(TurnEvents):
    """Delivers events in this process through `local`, and to other processes through a Redis stream."""

    def __init__(self, local: TurnEvents, client: RedisClient, streams: Redis, clock: Clock) -> None:
        self._local = local
        self._client = client
        self._streams = streams
        self._clock = clock
        self._queue: asyncio.Queue[Entry | None] = asyncio.Queue(_QUEUE_SIZE)
        self._readers: dict[object, asyncio.Task[None]] = {}

    @override
    def publish(self, turn_id: TurnId, event: TurnEvent, offset: int) -> None:
        """Publish an event without waiting; events are dropped when Redis falls behind."""
        self._local.publish(turn_id, event, offset)
        # Usage and the details of the end are read from the turn's row.
        if isinstance(event, TextDelta | ThoughtDelta | ToolActivity | TurnEnded):
            with suppress(asyncio.QueueFull):
                self._queue.put_nowait((turn_id, offset, event))

    @override
    def follow(self, turn_id: TurnId) -> AbstractAsyncContextManager[AsyncIterator[TurnEvent]]:
        return self._local.follow(turn_id)

    @override
    def listen(self, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> Callable[[], None]:
        reader = object()

        def stop() -> None:
            task = self._readers.pop(reader, None)
            if task is not None:
                task.cancel()

        self._readers[reader] = self._group.create_task(self._read(reader, turn_id, listener))
        return stop

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run the writer and the readers until the context ends; queued events are flushed first.

        The tasks also end by flag: on Python 3.11 the library's `wait_for` may swallow a cancellation.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._write())
            try:
                yield
            finally:
                # Last in the queue, so that the writer ends after the events before it.
                await self._queue.put(None)
                readers, self._readers = self._readers, {}
                for task in readers.values():
                    task.cancel()

    async def _write(self) -> None:
        """Write queued events in batches; they are dropped while Redis is unavailable.

        A turn that starts and ends within one batch is not written: followers read its row.
        """
        is_closing, started = False, set[TurnId]()
        while not is_closing:
            batch = [await self._queue.get()]
            await self._clock.sleep(_BATCH_DELAY)
            while len(batch) < _WRITE_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            is_closing = None in batch
            await guarded(self._write_batch([entry for entry in batch if entry is not None], started))

    async def _write_batch(self, entries: list[Entry], started: set[TurnId]) -> None:
        ended = {turn_id for turn_id, _, event in entries if isinstance(event, TurnEnded)}
        entries = _merge_deltas([entry for entry in entries if entry[0] in started or entry[0] not in ended])
        started |= {turn_id for turn_id, _, _ in entries}
        started -= ended
        if entries and not self._client.is_backing_off:
            await self._client.write(partial(self._add, entries))

    async def _add(self, entries: list[Entry], redis: Redis) -> None:
        # No MULTI: each entry carries its offset, so followers detect a batch that was written in part.
        async with redis.pipeline(transaction=False) as pipe:
            for turn_id, offset, event in entries:
                key = self._client.key(TURN_EVENTS, turn_id)
                pipe.xadd(key, {"at": offset, "event": _text(event)}, maxlen=_MAX_STREAM_LENGTH, approximate=True)
            # Renewed with each batch, since a turn may run longer than the lifetime.
            for turn_id in {turn_id for turn_id, _, _ in entries}:
                pipe.expire(self._client.key(TURN_EVENTS, turn_id), TURN_EVENTS.lifetime)
            await pipe.execute()

    async def _read(self, reader: object, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> None:
        await guarded(self._follow(reader, turn_id, listener))

    async def _follow(self, reader: object, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> None:
        # From the beginning of the stream, so that a late follower gets all of it.
        key, last = self._client.key(TURN_EVENTS, turn_id), "0"
        while reader in self._readers:
            try:
                found = await self._streams.xread({key: last}, count=_READ_BATCH, block=block_milliseconds())
            # Followers also poll Postgres, so an outage delays the text and loses none.
            except (RedisError, OSError, TimeoutError):
                await self._clock.sleep(_RETRY_DELAY)
                continue
            for last_id, fields in _entries(found):
                last = last_id
                event = _event(fields)
                if event is not None:
                    listener(*event)
                    if isinstance(event[1], TurnEnded):
                        return


@asynccontextmanager
async def open_turn_events(
    local: TurnEvents, client: RedisClient, url: str, clock: Clock
) -> AsyncGenerator[TurnEvents]:
    """Open the event stream; leaving the context closes its connections."""
    async with open_blocking(url) as streams:
        events = RedisTurnEvents(local, client, streams, clock)
        async with events.running():
            yield events


def _merge_deltas(batch: list[Entry]) -> list[Entry]:
    """Merge consecutive text deltas of a turn, since agents stream in small pieces; turns keep no mutual order."""
    turns: dict[TurnId, list[Entry]] = {}
    for turn_id, offset, event in batch:
        merged = turns.setdefault(turn_id, [])
        match merged[-1:], event:
            case [(_, at, TextDelta(first))], TextDelta(more) if at + len(first) == offset:
                merged[-1] = (turn_id, at, TextDelta(first + more))
            case _:
                merged.append((turn_id, offset, event))
    return [entry for merged in turns.values() for entry in merged]


def _text(event: TurnEvent) -> str:
    match event:
        case TextDelta(text):
            data: dict[str, str] = {"kind": "text", "text": text}
        case ThoughtDelta(text):
            data = {"kind": "thought", "text": text}
        case ToolActivity(name, state, detail):
            data = {"kind": "tool", "name": name, "state": str(state), "detail": detail}
        case TurnEnded(at):
            data = {"kind": "ended", "at": at.isoformat()}
        case _:
            data = {"kind": "other"}
    return json.dumps(data)


def _entries(found: object) -> list[tuple[str, dict[str, str]]]:
    """Unwrap the XREAD reply for one stream."""
    streams = cast("list[tuple[str, list[tuple[str, dict[str, str]]]]] | None", found)
    return streams[0][1] if streams else []


def _event(fields: dict[str, str]) -> tuple[int, TurnEvent] | None:
    """Parse a stream entry; None for the format of another version."""
    try:
        offset = int(fields["at"])
        data: dict[str, str] = json.loads(fields["event"])
        match data["kind"]:
            case "text":
                return offset, TextDelta(data["text"])
            case "thought":
                return offset, ThoughtDelta(data["text"])
            case "tool":
                return offset, ToolActivity(data["name"], ToolState(data["state"]), data["detail"])
            case "ended":
                return offset, TurnEnded(datetime.fromisoformat(data["at"]))
            case _:
                return None
    except (ValueError, KeyError, TypeError):
        return None
