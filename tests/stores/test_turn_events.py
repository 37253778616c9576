"""Live events of turns: the same for followers in this process whatever the store; over Redis from others too."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Literal

import pytest
from redis.asyncio import Redis

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import TurnId, new_id
from agentapi_mcp.core.backends.events import Finished, SignOfLife, TextDelta, ThoughtDelta, ToolActivity, ToolState
from agentapi_mcp.core.conversations.models import TurnEnded, TurnEvent
from agentapi_mcp.core.conversations.ports import TurnEvents
from agentapi_mcp.stores.local.events import LocalTurnEvents
from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.events import open_turn_events
from agentapi_mcp.stores.redis.gathered import open_gathered

Kind = Literal["local", "redis"]
KINDS: tuple[Kind, ...] = ("local", "redis")
END = TurnEnded(datetime(2026, 1, 1, tzinfo=UTC))


@asynccontextmanager
async def opened(kind: Kind, url: str, prefix: str) -> AsyncGenerator[TurnEvents]:
    """Open the events of one process."""
    if kind == "local":
        yield LocalTurnEvents()
        return
    clock = SystemClock()
    async with (
        open_redis(url, prefix, clock) as client,
        open_gathered(client, clock) as gathered,
        open_turn_events(LocalTurnEvents(), client, gathered, url, clock) as events,
    ):
        yield events


class Heard:
    """What a listener of another process hears."""

    def __init__(self) -> None:
        self.events = list[tuple[int, TurnEvent]]()
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    def __call__(self, offset: int, event: TurnEvent) -> None:
        """Hear."""
        self.events.append((offset, event))
        self.begun.set()
        if isinstance(event, TurnEnded):
            self.ended.set()

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(event.text for _, event in self.events if isinstance(event, TextDelta))


def say(events: TurnEvents, turn: TurnId, pieces: list[str]) -> None:
    offset = 0
    for piece in pieces:
        events.publish(turn, TextDelta(piece), offset)
        offset += len(piece)
    events.publish(turn, END, offset)


async def say_slowly(events: TurnEvents, turn: TurnId, listener: Heard) -> None:
    """Say something, and end when it has been heard."""
    events.publish(turn, TextDelta("a"), 0)
    await listener.begun.wait()
    events.publish(turn, END, 1)
    await listener.ended.wait()


@pytest.mark.parametrize("kind", KINDS)
async def test_each_follower_here_hears_every_event_in_order_to_the_end(
    kind: Kind, redis_url: str, redis_prefix: str
) -> None:
    turn, other = TurnId(new_id()), TurnId(new_id())
    said: list[TurnEvent] = [SignOfLife(), ThoughtDelta("hm"), TextDelta("a"), TextDelta("b"), Finished(), END]
    async with (
        opened(kind, redis_url, redis_prefix) as events,
        events.follow(turn) as one,
        events.follow(turn) as two,
    ):
        for event in said:
            events.publish(other, event, 0)
            events.publish(turn, event, 0)
        assert [event async for event in one] == said
        assert [event async for event in two] == said


@pytest.mark.parametrize("kind", KINDS)
async def test_who_comes_late_hears_what_comes_then(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    turn = TurnId(new_id())
    async with opened(kind, redis_url, redis_prefix) as events:
        events.publish(turn, TextDelta("before"), 0)
        async with events.follow(turn) as late:
            events.publish(turn, END, 6)
            assert [event async for event in late] == [END]


async def test_in_one_process_there_is_nobody_else_to_hear() -> None:
    turn, heard, events = TurnId(new_id()), Heard(), LocalTurnEvents()
    stop = events.listen(turn, heard)
    say(events, turn, ["a"])
    stop()
    assert heard.events == []


async def test_another_process_hears_all_from_the_beginning(redis_url: str, redis_prefix: str) -> None:
    turn, early, late = TurnId(new_id()), Heard(), Heard()
    async with (
        opened("redis", redis_url, redis_prefix) as here,
        opened("redis", redis_url, redis_prefix) as elsewhere,
    ):
        elsewhere.listen(turn, early)
        here.publish(turn, ToolActivity("search", ToolState.STARTED, "∑"), 0)
        await early.begun.wait()
        say(here, turn, [f"w{i} " for i in range(2000)])
        await early.ended.wait()
        elsewhere.listen(turn, late)
        await late.ended.wait()
        whole = "".join(f"w{i} " for i in range(2000))
        assert (early.text, late.text) == (whole, whole)
        assert early.events == late.events
        assert early.events[0] == (0, ToolActivity("search", ToolState.STARTED, "∑"))
        assert early.events[-1] == (len(whole), END)
        assert len(late.events) < 2000  # pieces that follow each other travel together


async def test_who_stops_listening_hears_no_more(redis_url: str, redis_prefix: str) -> None:
    turn, gone, there = TurnId(new_id()), Heard(), Heard()
    async with opened("redis", redis_url, redis_prefix) as here:
        here.listen(turn, gone)()
        here.listen(turn, there)
        await say_slowly(here, turn, there)
        assert gone.events == []


async def test_what_is_over_within_a_moment_is_not_written(redis_url: str, redis_prefix: str) -> None:
    short, other, heard = TurnId(new_id()), TurnId(new_id()), Heard()
    async with Redis.from_url(redis_url) as redis, opened("redis", redis_url, redis_prefix) as here:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        here.listen(other, heard)
        say(here, short, ["a", "b"])
        await say_slowly(here, other, heard)
        assert await redis.exists(f"{redis_prefix}turn:{short}:events") == 0
        assert await redis.exists(f"{redis_prefix}turn:{other}:events") == 1


async def test_a_stream_lives_an_hour_and_strange_entries_are_passed_over(redis_url: str, redis_prefix: str) -> None:
    turn, heard = TurnId(new_id()), Heard()
    key = f"{redis_prefix}turn:{turn}:events"
    async with Redis.from_url(redis_url) as redis, opened("redis", redis_url, redis_prefix) as here:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await redis.xadd(key, {"from": "another version"})
        await redis.xadd(key, {"at": "x", "event": "no json"})
        here.listen(turn, heard)
        await say_slowly(here, turn, heard)
        assert heard.text == "a"
        assert 3590 < await redis.ttl(key) <= 3600


@pytest.mark.timeout(60)
async def test_it_ends_at_any_moment_of_a_write_or_a_read(redis_url: str, redis_prefix: str) -> None:
    others = asyncio.all_tasks()
    for steps in range(40):
        async with asyncio.timeout(25):
            async with opened("redis", redis_url, redis_prefix) as events:
                turn = TurnId(new_id())
                stop = events.listen(turn, Heard())
                events.publish(turn, TextDelta("x"), 0)
                for _ in range(steps):
                    await asyncio.sleep(0)  # noqa: TID251  # one step of the loop
                if steps % 2:
                    stop()
        assert asyncio.all_tasks() - others == set()
