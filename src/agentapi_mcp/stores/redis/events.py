"""The live events of running turns, as a stream in Redis for each: followed from any process, from its beginning."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.core.backends.events import TextDelta, ThoughtDelta, ToolActivity, ToolState
from agentapi_mcp.core.conversations.models import TurnEnded, TurnEvent
from agentapi_mcp.core.conversations.ports import TurnEvents
from agentapi_mcp.stores.redis.client import RedisClient, blocking, open_blocking
from agentapi_mcp.stores.redis.keys import TURN_EVENTS

_WAITING = 20_000
_WRITTEN_AT_ONCE = 5_000
_READ_AT_ONCE = 500
_LONGEST = 20_000
_TRY_AGAIN = timedelta(seconds=1)
_GATHER = timedelta(seconds=0.05)

Entry = tuple[TurnId, int, TurnEvent]


class RedisTurnEvents:
    """Followers in this process are told by `here`; those of other processes read the stream."""

    def __init__(self, here: TurnEvents, client: RedisClient, streams: Redis, clock: Clock) -> None:
        self._here = here
        self._client = client
        self._streams = streams
        self._clock = clock
        self._waiting: asyncio.Queue[Entry | None] = asyncio.Queue(_WAITING)
        self._readings: dict[object, asyncio.Task[None]] = {}

    def publish(self, turn_id: TurnId, event: TurnEvent, offset: int) -> None:
        """Tell whoever follows; never waits, and what Redis cannot take in time is dropped."""
        self._here.publish(turn_id, event, offset)
        if isinstance(event, TextDelta | ThoughtDelta | ToolActivity | TurnEnded):
            with suppress(asyncio.QueueFull):
                self._waiting.put_nowait((turn_id, offset, event))

    def follow(self, turn_id: TurnId) -> AbstractAsyncContextManager[AsyncIterator[TurnEvent]]:
        """Follow a turn that runs in this process, from now on."""
        return self._here.follow(turn_id)

    def listen(self, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> Callable[[], None]:
        """Call the listener with every offset and event, from the first that is kept."""
        reading = object()

        def stop() -> None:
            task = self._readings.pop(reading, None)
            if task is not None:
                task.cancel()

        self._readings[reading] = self._group.create_task(self._read(reading, turn_id, listener))
        return stop

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Write and read until the context ends; what is still waiting then is written.

        Nothing here trusts that a cancelled task ends: on Python 3.11 the library's `wait_for` may swallow that.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._write())
            try:
                yield
            finally:
                await self._waiting.put(None)
                readings, self._readings = self._readings, {}
                for task in readings.values():
                    task.cancel()

    async def _write(self) -> None:
        """Write what waits, many at once; while Redis is away it is dropped.

        A turn that ends within a moment is told in one piece by its row: nothing of it is written.
        """
        ends, told = False, set[TurnId]()
        while not ends:
            batch = [await self._waiting.get()]
            await self._clock.sleep(_GATHER)
            while len(batch) < _WRITTEN_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            ends = None in batch
            entries = [entry for entry in batch if entry is not None]
            over = {turn_id for turn_id, _, event in entries if isinstance(event, TurnEnded)}
            entries = _joined([entry for entry in entries if entry[0] in told or entry[0] not in over])
            told = (told | {turn_id for turn_id, _, _ in entries}) - over
            if entries and not self._client.is_resting:
                await self._client.write(partial(self._add, entries))

    async def _add(self, entries: list[Entry], redis: Redis) -> None:
        async with redis.pipeline(transaction=False) as pipe:
            for turn_id, offset, event in entries:
                key = self._client.key(TURN_EVENTS, turn_id)
                pipe.xadd(key, {"at": offset, "event": _text(event)}, maxlen=_LONGEST, approximate=True)
            for turn_id in {turn_id for turn_id, _, _ in entries}:
                pipe.expire(self._client.key(TURN_EVENTS, turn_id), TURN_EVENTS.lifetime)
            await pipe.execute()

    async def _read(self, reading: object, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> None:
        key, last = self._client.key(TURN_EVENTS, turn_id), "0"
        while reading in self._readings:
            try:
                found = await self._streams.xread({key: last}, count=_READ_AT_ONCE, block=blocking())
            except (RedisError, OSError, TimeoutError):
                await self._clock.sleep(_TRY_AGAIN)
                continue
            for last_id, fields in _entries(found):
                last = last_id
                told = _event(fields)
                if told is not None:
                    listener(*told)
                    if isinstance(told[1], TurnEnded):
                        return


@asynccontextmanager
async def open_turn_events(here: TurnEvents, client: RedisClient, url: str, clock: Clock) -> AsyncGenerator[TurnEvents]:
    """Open the events of turns; the context's end closes their connections."""
    async with open_blocking(url) as streams:
        events = RedisTurnEvents(here, client, streams, clock)
        async with events.running():
            yield events


def _joined(batch: list[Entry]) -> list[Entry]:
    """Join the texts of a turn that follow each other: agents speak in small pieces. Turns need no order among them."""
    turns: dict[TurnId, list[Entry]] = {}
    for turn_id, offset, event in batch:
        said = turns.setdefault(turn_id, [])
        match said[-1:], event:
            case [(_, at, TextDelta(first))], TextDelta(more) if at + len(first) == offset:
                said[-1] = (turn_id, at, TextDelta(first + more))
            case _:
                said.append((turn_id, offset, event))
    return [entry for said in turns.values() for entry in said]


def _text(event: TurnEvent) -> str:
    match event:
        case TextDelta(text):
            said: dict[str, str] = {"kind": "text", "text": text}
        case ThoughtDelta(text):
            said = {"kind": "thought", "text": text}
        case ToolActivity(name, state, detail):
            said = {"kind": "tool", "name": name, "state": str(state), "detail": detail}
        case TurnEnded(at):
            said = {"kind": "ended", "at": at.isoformat()}
        case _:
            said = {"kind": "other"}
    return json.dumps(said)


def _entries(found: object) -> list[tuple[str, dict[str, str]]]:
    """Unwrap what XREAD answers for one stream."""
    streams = cast("list[tuple[str, list[tuple[str, dict[str, str]]]]] | None", found)
    return streams[0][1] if streams else []


def _event(fields: dict[str, str]) -> tuple[int, TurnEvent] | None:
    """Read an entry; what another version wrote in another form counts as nothing."""
    try:
        offset = int(fields["at"])
        said: dict[str, str] = json.loads(fields["event"])
        match said["kind"]:
            case "text":
                return offset, TextDelta(said["text"])
            case "thought":
                return offset, ThoughtDelta(said["text"])
            case "tool":
                return offset, ToolActivity(said["name"], ToolState(said["state"]), said["detail"])
            case "ended":
                return offset, TurnEnded(datetime.fromisoformat(said["at"]))
            case _:
                return None
    except (ValueError, KeyError, TypeError):
        return None
