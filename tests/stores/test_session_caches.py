"""Recent history: the same behaviour in one process and in Redis."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, cast

import pytest
from redis.asyncio import Redis
from typing_extensions import override

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import MessageId, OrgId, SessionId, UserId, new_id
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.conversations.models import History, SessionState
from agentapi_mcp.core.conversations.ports import SessionCache
from agentapi_mcp.stores.local.session_caches import LocalSessionCache
from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.gathered import Batch, GatheredWrites, Source, open_gathered
from agentapi_mcp.stores.redis.session_caches import RedisSessionCache
from tests.support.clocks import ManualClock
from tests.support.valkey import Valkey

STATE = SessionState(user_id=UserId(new_id()), org_id=OrgId(new_id()), agent="droid", model=None, metadata={"a": 1})
Kind = Literal["local", "redis", "other replica"]
KINDS: tuple[Kind, ...] = ("local", "redis", "other replica")


@dataclass(frozen=True)
class Pair:
    """A cache that is written and one that is read, which are one or share what they keep."""

    written: SessionCache
    read: SessionCache
    gathered: Mapping[SessionCache, GatheredWrites] = field(default_factory=dict[SessionCache, GatheredWrites])

    async def save(self, session: SessionId, kept: History | None, by: SessionCache | None = None) -> None:
        """Save, and let another replica find it; who has written it finds it anyway."""
        cache = by or self.written
        await cache.save(session, STATE, kept)
        if self.written is not self.read:
            await self.gathered[cache].flush()


@asynccontextmanager
async def opened(kind: Kind, url: str, prefix: str) -> AsyncGenerator[Pair]:
    """Open a cache of this kind."""
    if kind == "local":
        cache = LocalSessionCache(ManualClock())
        yield Pair(cache, cache)
        return
    async with open_redis(url, prefix, ManualClock()) as client:
        replicas = [GatheredWrites(client, ManualClock()) for _ in range(2)]
        one, two = (RedisSessionCache(LocalSessionCache(ManualClock()), client, writes) for writes in replicas)
        yield Pair(one, one if kind == "redis" else two, dict(zip((one, two), replicas, strict=True)))


def history(text: str = "hello ∑ \U0001f600") -> History:
    messages = (HistoryMessage(MessageRole.USER, text), HistoryMessage(MessageRole.ASSISTANT, "yes"))
    return History(messages, dropped=3, last_message_id=MessageId(new_id()), unfinished=2)


async def find(cache: SessionCache, session: SessionId, kept: History) -> History | None:
    """Look for what ends as this one does."""
    assert kept.last_message_id is not None
    return await cache.find(session, kept.last_message_id)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_kept_is_found_as_it_was(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened(kind, redis_url, redis_prefix) as cache:
        assert await find(cache.read, session, kept) is None
        await cache.save(session, kept)
        assert await find(cache.read, session, kept) == kept
        assert await find(cache.read, SessionId(new_id()), kept) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_ends_otherwise_is_not_found(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, older, newer = SessionId(new_id()), history("older"), history("newer")
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.save(session, older)
        assert await find(cache.read, session, older) == older
        await cache.save(session, newer)
        assert await find(cache.read, session, newer) == newer
        assert await find(cache.read, session, older) is None


def grown(before: History, *texts: str) -> History:
    """Let a history go on."""
    said = tuple(HistoryMessage(MessageRole.USER, text) for text in texts)
    return History((*before.messages, *said), before.dropped, MessageId(new_id()))


@pytest.mark.parametrize("kind", KINDS)
async def test_one_that_goes_on_is_found_whole(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened(kind, redis_url, redis_prefix) as cache:
        for number in range(4):
            await cache.save(session, kept)
            assert await find(cache.read, session, kept) == kept
            kept = grown(kept, f"more {number}")
        cut = History(kept.messages[1:], kept.dropped + 1, MessageId(new_id()))
        await cache.save(session, cut)
        assert await find(cache.read, session, cut) == cut


async def test_replicas_that_write_by_turns_make_one_history(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened("other replica", redis_url, redis_prefix) as cache:
        await cache.save(session, kept)
        for number in range(6):
            here, there = (cache.written, cache.read) if number % 2 else (cache.read, cache.written)
            assert await find(here, session, kept) == kept
            kept = grown(kept, f"more {number}")
            await cache.save(session, kept, by=here)
            assert await find(there, session, kept) == kept


async def test_what_was_flushed_is_written_whole_again(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    key = f"{redis_prefix}chat:session:{session}:messages"
    async with Redis.from_url(redis_url) as redis, opened("other replica", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.save(session, kept)
        await redis.delete(key)
        kept = grown(kept, "more")
        await cache.save(session, kept)
        assert await find(cache.read, session, kept) == kept


Failure = Literal["lost", "refused", "unclear"]


async def fail_to_write(cache: Pair, valkey: Valkey, failure: Failure) -> None:
    """Let what waits to be written fail: on its way there, at the server, or on its way back."""
    written, gathered = cache.written, cache.gathered[cache.written]
    assert isinstance(written, RedisSessionCache)
    match failure:
        case "lost":
            written.take()
        case "refused":
            valkey.run("CONFIG", "SET", "maxmemory", "1")
            await gathered.flush()
            valkey.run("CONFIG", "SET", "maxmemory", "0")
        case "unclear":
            for command in written.take().commands:
                valkey.run(*map(str, command))


@pytest.mark.parametrize("failure", ["lost", "refused", "unclear"])
@pytest.mark.parametrize("before", [1, 2])
async def test_one_of_which_a_write_failed_is_whole_after_the_next_turn(
    before: int, failure: Failure, valkey: Valkey
) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened("other replica", valkey.url, "") as cache:
        for number in range(before):
            kept = grown(kept, f"before {number}")
            await cache.save(session, kept)
        kept = grown(kept, "meanwhile")
        await cache.written.save(session, STATE, kept)
        await fail_to_write(cache, valkey, failure)
        for number in range(2):
            kept = grown(kept, f"after {number}")
            await cache.save(session, kept)
            assert await find(cache.read, session, kept) == kept
        assert valkey.run("LLEN", f"chat:session:{session}:messages") == 2


async def test_a_gap_is_never_taken_for_a_history_and_closed_by_the_next_turn(
    redis_url: str, redis_prefix: str
) -> None:
    session, first = SessionId(new_id()), history("first")
    second = grown(first, "second")
    third = grown(second, "third")
    async with (
        opened("other replica", redis_url, redis_prefix) as cache,
        opened("redis", redis_url, redis_prefix) as late,
    ):
        await cache.save(session, first)
        await cache.written.save(session, STATE, second)
        await cache.save(session, third, by=cache.read)
        await cache.gathered[cache.written].flush()  # the second turn is written after the third
        assert [await find(late.read, session, each) for each in (first, second, third)] == [None, None, None]
        fourth = grown(third, "fourth")
        await cache.save(session, fourth, by=cache.read)
        assert await find(late.read, session, fourth) == fourth


@pytest.mark.parametrize("kind", KINDS)
async def test_one_too_large_is_not_kept_nor_what_was_there(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, small, large = SessionId(new_id()), history(), history("x" * 4_000_001)
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.save(session, small)
        await cache.save(session, large)
        assert await find(cache.read, session, large) is None
        assert await find(cache.read, session, small) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_forgotten_is_gone(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.written.remove(session)
        await cache.save(session, kept)
        await cache.written.remove(session)
        assert await find(cache.read, session, kept) is None


async def test_the_local_one_forgets_after_an_hour() -> None:
    clock, session, kept = ManualClock(), SessionId(new_id()), history()
    cache = LocalSessionCache(clock)
    await cache.save(session, STATE, kept)
    clock.advance(timedelta(minutes=59))
    assert await find(cache, session, kept) is not None
    clock.advance(timedelta(minutes=2))
    assert await find(cache, session, kept) is None


async def test_the_local_one_gives_up_what_was_used_longest_ago_for_room() -> None:
    cache, kept = LocalSessionCache(ManualClock()), [history(str(number) + "x" * 3_900_000) for number in range(9)]
    sessions = [SessionId(new_id()) for _ in kept]
    for session, each in zip(sessions[:8], kept, strict=False):
        await cache.save(session, STATE, each)
    assert await find(cache, sessions[0], kept[0]) is not None
    await cache.save(sessions[8], STATE, kept[8])
    found = [await find(cache, session, each) is not None for session, each in zip(sessions, kept, strict=True)]
    assert found == [True, False, *[True] * 7]


async def test_the_shared_one_lives_an_hour_and_reads_only_its_own_form(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    key = f"{redis_prefix}chat:session:{session}:messages"
    async with Redis.from_url(redis_url) as redis, opened("other replica", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.save(session, kept)
        assert 3590 < await redis.ttl(key) <= 3600
        [stored] = await cast("Any", redis).lrange(key, 0, -1)
        before = json.dumps({name: each for name, each in json.loads(stored).items() if name != "unfinished"})
        for strange in ("no json", "[]", '{"messages": 1}', before):
            await redis.delete(key)
            await cast("Any", redis).rpush(key, strange)
            assert await find(cache.read, session, kept) is None
        assert await find(cache.written, session, kept) == kept


@pytest.mark.parametrize("kind", KINDS)
async def test_one_that_is_not_known_is_not_kept_nor_what_was_there(
    kind: Kind, redis_url: str, redis_prefix: str
) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.save(session, kept)
        await cache.save(session, None)
        assert await find(cache.read, session, kept) is None


async def test_the_state_is_told_outside_for_a_day(redis_url: str, redis_prefix: str) -> None:
    session, key = SessionId(new_id()), f"{redis_prefix}session:"
    async with Redis.from_url(redis_url) as redis, opened("redis", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.save(session, None)
        await cache.gathered[cache.written].flush()
        told = json.loads(await redis.get(f"{key}{session}") or "")
        assert told == {
            "user_id": str(STATE.user_id),
            "org_id": str(STATE.org_id),
            "agent": "droid",
            "model": None,
            "metadata": {"a": 1},
        }
        assert 86_390 < await redis.ttl(f"{key}{session}") <= 86_400
        await cache.written.remove(session)
        assert await redis.get(f"{key}{session}") is None


async def test_both_forget_under_concurrent_use(redis_url: str, redis_prefix: str) -> None:
    sessions = {SessionId(new_id()): history(str(number)) for number in range(50)}
    async with opened("other replica", redis_url, redis_prefix) as cache:
        async with asyncio.TaskGroup() as group:
            for session, kept in sessions.items():
                group.create_task(cache.save(session, kept))
        for session, kept in sessions.items():
            assert await find(cache.read, session, kept) == kept


async def test_nobody_waits_for_what_is_written(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened("redis", redis_url, redis_prefix) as cache:
        with pytest.raises(StopIteration):
            cache.written.save(session, STATE, kept).__await__().__next__()  # it ends in its first step
        assert await find(cache.read, session, kept) == kept


async def test_turns_of_a_moment_are_written_as_one(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    key = f"{redis_prefix}chat:session:{session}:messages"
    async with Redis.from_url(redis_url) as redis, opened("other replica", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.save(session, kept)
        for number in range(3):
            kept = grown(kept, f"more {number}")
            await cache.written.save(session, STATE, kept)
        await cache.gathered[cache.written].flush()
        assert await find(cache.read, session, kept) == kept
        assert await cast("Any", redis).llen(key) == 2


async def test_what_waits_to_be_written_is_newer_than_what_is_stored(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened("other replica", redis_url, redis_prefix) as cache:
        await cache.save(session, kept)
        await cache.written.save(session, STATE, None)
        assert await find(cache.written, session, kept) is None
        assert await find(cache.read, session, kept) == kept


async def test_what_is_forgotten_is_not_written_any_more(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with Redis.from_url(redis_url) as redis, opened("redis", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.written.save(session, STATE, kept)
        await cache.written.remove(session)
        await cache.gathered[cache.written].flush()
        assert await cast("Any", redis).keys(f"{redis_prefix}*{session}*") == []


async def test_what_is_forgotten_while_it_is_on_its_way_does_not_come_back(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with Redis.from_url(redis_url) as redis, opened("redis", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.written.save(session, STATE, kept)
        await cache.gathered[cache.written].flush()
        await redis.delete(f"{redis_prefix}chat:session:{session}:messages")  # so that it must be written whole again
        await cache.written.save(session, STATE, grown(kept, "more"))
        async with asyncio.TaskGroup() as group:
            group.create_task(cache.gathered[cache.written].flush())
            group.create_task(cache.written.remove(session))
        await cache.gathered[cache.written].flush()
        assert await cast("Any", redis).keys(f"{redis_prefix}*{session}*") == []


async def test_what_is_forgotten_by_one_who_leaves_is_not_written(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with Redis.from_url(redis_url) as redis, opened("redis", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        gathered, is_there = cache.gathered[cache.written], asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(gathered.after_flight(is_there.wait))
            await asyncio.sleep(0)  # noqa: TID251  # one step of the loop
            await cache.written.save(session, STATE, kept)
            removing = group.create_task(cache.written.remove(session))
            await asyncio.sleep(0)  # noqa: TID251  # one step of the loop
            removing.cancel()
            is_there.set()
        await gathered.flush()
        assert await cast("Any", redis).keys(f"{redis_prefix}*{session}*") == []


class OneSet(Source):
    """Sets one key, and notes what it is asked and told."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.steps = list[str]()

    @override
    def take(self) -> Batch:
        """Give it once."""

        def heard(results: Sequence[object]) -> None:
            self.steps += ["heard" for _ in results]

        commands = [] if "taken" in self.steps else [("SET", self.key, "1", "EX", 60)]
        self.steps.append("taken")
        return Batch(commands, heard)


async def test_what_comes_after_a_flight_waits_for_its_end(redis_url: str, redis_prefix: str) -> None:
    source = OneSet(redis_prefix + "set")
    async with open_redis(redis_url, redis_prefix, ManualClock()) as client:
        gathered = GatheredWrites(client, ManualClock())
        gathered.add(source)

        async def work() -> None:
            source.steps.append("work")

        async with asyncio.TaskGroup() as group:
            group.create_task(gathered.flush())
            group.create_task(gathered.after_flight(work))
        assert source.steps == ["taken", "heard", "work"]


async def test_at_the_end_of_the_program_what_is_left_is_written(redis_url: str, redis_prefix: str) -> None:
    session, kept, clock = SessionId(new_id()), history(), SystemClock()
    async with open_redis(redis_url, redis_prefix, clock) as client, opened("redis", redis_url, redis_prefix) as late:

        async def fail() -> None:
            async with open_gathered(client, clock) as gathered:
                cache = RedisSessionCache(LocalSessionCache(clock), client, gathered)
                await cache.save(session, STATE, kept)
                raise ConnectionResetError

        with pytest.raises(ExceptionGroup):
            await fail()
        assert await find(late.read, session, kept) == kept


async def test_one_that_is_refused_does_not_keep_the_others_back(redis_url: str, redis_prefix: str) -> None:
    refused, session, kept = SessionId(new_id()), SessionId(new_id()), history()
    async with Redis.from_url(redis_url) as redis, opened("other replica", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.save(refused, kept)
        await cache.save(session, kept)
        await redis.set(f"{redis_prefix}chat:session:{refused}:messages", "of another program")
        await redis.delete(f"{redis_prefix}chat:session:{session}:messages")  # so that it must be written whole again
        kept = grown(kept, "more")
        await cache.written.save(refused, STATE, kept)
        await cache.save(session, kept)
        assert await find(cache.read, session, kept) == kept


async def test_a_call_that_is_cancelled_leaves_its_answer_to_nobody(redis_url: str, redis_prefix: str) -> None:
    one, other = redis_prefix + "one", redis_prefix + "other"
    async with open_redis(redis_url, redis_prefix, ManualClock()) as client:
        await client.write(lambda redis: redis.mset({one: "one", other: "other"}))
        for steps in range(30):
            async with asyncio.TaskGroup() as group:
                call = group.create_task(client.read(lambda redis: redis.get(one), None))
                for _ in range(steps):
                    await asyncio.sleep(0)  # noqa: TID251  # one step of the loop
                call.cancel()
            assert await client.read(lambda redis: redis.get(other), None) == "other"
