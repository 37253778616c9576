"""Live events of running turns, one Redis stream per turn, readable from its start by any process."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError
from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import guarded
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.base.json_texts import json_text
from agentapi_mcp.core.backends.events import TextDelta, ThoughtDelta, ToolActivity, ToolState
from agentapi_mcp.core.conversations.models import TurnEnded, TurnEvent
from agentapi_mcp.core.conversations.ports import TurnEvents
from agentapi_mcp.stores.redis.client import RedisClient, block_milliseconds, open_blocking
from agentapi_mcp.stores.redis.gathered import Batch, Command, GatheredWrites, Source
from agentapi_mcp.stores.redis.keys import TURN_EVENTS

# Bounds the memory while Redis is slow; events that do not fit are dropped.
_QUEUE_SIZE = 20_000
_WRITE_BATCH = 5_000
_READ_BATCH = 500
# Entries of one stream; a follower who misses trimmed ones reads the text from Postgres.
_MAX_STREAM_LENGTH = 20_000
_RETRY_DELAY = timedelta(seconds=1)

Entry = tuple[TurnId, int, TurnEvent]


class RedisTurnEvents(TurnEvents, Source):
    """Delivers events in this process through `local`, and to other processes through a Redis stream.

    A turn that starts and ends within one batch is not written: followers read its row.
    """

    def __init__(
        self, local: TurnEvents, client: RedisClient, gathered: GatheredWrites, streams: Redis, clock: Clock
    ) -> None:
        self._local = local
        self._client = client
        self._gathered = gathered
        self._streams = streams
        self._clock = clock
        self._waiting = deque[Entry]()
        self._started = set[TurnId]()
        self._readers: dict[object, asyncio.Task[None]] = {}
        gathered.add(self)

    @override
    def publish(self, turn_id: TurnId, event: TurnEvent, offset: int) -> None:
        """Publish an event without waiting; events are dropped when Redis falls behind."""
        self._local.publish(turn_id, event, offset)
        # Usage and the details of the end are read from the turn's row.
        is_shared = isinstance(event, TextDelta | ThoughtDelta | ToolActivity | TurnEnded)
        if is_shared and len(self._waiting) < _QUEUE_SIZE:
            self._waiting.append((turn_id, offset, event))
            self._gathered.note()

    @override
    def take(self) -> Batch:
        entries = [self._waiting.popleft() for _ in range(min(len(self._waiting), _WRITE_BATCH))]
        if self._waiting:
            self._gathered.note()
        ended = {turn_id for turn_id, _, event in entries if isinstance(event, TurnEnded)}
        entries = _merge_deltas([entry for entry in entries if entry[0] in self._started or entry[0] not in ended])
        turns = {turn_id for turn_id, _, _ in entries}
        self._started = (self._started | turns) - ended
        # Renewed with each batch, since a turn may run longer than the lifetime.
        return Batch([*map(self._xadd, entries), *map(self._expire, turns)])

    def _xadd(self, entry: Entry) -> Command:
        turn_id, offset, event = entry
        key = self._client.key(TURN_EVENTS, turn_id)
        return ("XADD", key, "MAXLEN", "~", _MAX_STREAM_LENGTH, "*", "at", offset, "event", _text(event))

    def _expire(self, turn_id: TurnId) -> Command:
        return ("EXPIRE", self._client.key(TURN_EVENTS, turn_id), TURN_EVENTS.seconds)

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
        """Run the readers until the context ends.

        The tasks also end by flag: on Python 3.11 the library's `wait_for` may swallow a cancellation.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                yield
            finally:
                readers, self._readers = self._readers, {}
                for task in readers.values():
                    task.cancel()

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
    local: TurnEvents, client: RedisClient, gathered: GatheredWrites, url: str, clock: Clock
) -> AsyncGenerator[TurnEvents]:
    """Open the event stream; leaving the context closes its connections."""
    async with open_blocking(url) as streams:
        events = RedisTurnEvents(local, client, gathered, streams, clock)
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
    return json_text(data)


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
