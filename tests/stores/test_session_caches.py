"""Recent history: the same behaviour in one process and in Redis."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, cast

import pytest
from redis.asyncio import Redis

from agentapi_mcp.base.ids import MessageId, OrgId, SessionId, UserId, new_id
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.conversations.models import History, SessionState
from agentapi_mcp.core.conversations.ports import SessionCache
from agentapi_mcp.stores.local.session_caches import LocalSessionCache
from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.session_caches import RedisSessionCache
from tests.support.clocks import ManualClock

STATE = SessionState(user_id=UserId(new_id()), org_id=OrgId(new_id()), agent="droid", model=None, metadata={"a": 1})
Kind = Literal["local", "redis", "other replica"]
KINDS: tuple[Kind, ...] = ("local", "redis", "other replica")


@dataclass(frozen=True)
class Pair:
    """A cache that is written and one that is read, which are one or share what they keep."""

    written: SessionCache
    read: SessionCache


@asynccontextmanager
async def opened(kind: Kind, url: str, prefix: str) -> AsyncGenerator[Pair]:
    """Open a cache of this kind."""
    if kind == "local":
        cache = LocalSessionCache(ManualClock())
        yield Pair(cache, cache)
        return
    async with open_redis(url, prefix, ManualClock()) as client:
        one, two = (RedisSessionCache(LocalSessionCache(ManualClock()), client) for _ in range(2))
        yield Pair(one, one if kind == "redis" else two)


def history(text: str = "hello ∑ \U0001f600") -> History:
    messages = (HistoryMessage(MessageRole.USER, text), HistoryMessage(MessageRole.ASSISTANT, "yes"))
    return History(messages, dropped=3, last_message_id=MessageId(new_id()))


async def find(cache: SessionCache, session: SessionId, kept: History) -> History | None:
    """Look for what ends as this one does."""
    assert kept.last_message_id is not None
    return await cache.find(session, kept.last_message_id)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_kept_is_found_as_it_was(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened(kind, redis_url, redis_prefix) as cache:
        assert await find(cache.read, session, kept) is None
        await cache.written.save(session, STATE, kept)
        assert await find(cache.read, session, kept) == kept
        assert await find(cache.read, SessionId(new_id()), kept) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_ends_otherwise_is_not_found(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, older, newer = SessionId(new_id()), history("older"), history("newer")
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.written.save(session, STATE, older)
        assert await find(cache.read, session, older) == older
        await cache.written.save(session, STATE, newer)
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
            await cache.written.save(session, STATE, kept)
            assert await find(cache.read, session, kept) == kept
            kept = grown(kept, f"more {number}")
        cut = History(kept.messages[1:], kept.dropped + 1, MessageId(new_id()))
        await cache.written.save(session, STATE, cut)
        assert await find(cache.read, session, cut) == cut


async def test_replicas_that_write_by_turns_make_one_history(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened("other replica", redis_url, redis_prefix) as cache:
        await cache.written.save(session, STATE, kept)
        for number in range(6):
            here, there = (cache.written, cache.read) if number % 2 else (cache.read, cache.written)
            assert await find(here, session, kept) == kept
            kept = grown(kept, f"more {number}")
            await here.save(session, STATE, kept)
            assert await find(there, session, kept) == kept


async def test_a_gap_is_never_taken_for_a_history(redis_url: str, redis_prefix: str) -> None:
    session, first = SessionId(new_id()), history("first")
    one, other = grown(first, "one"), grown(first, "other")
    async with opened("other replica", redis_url, redis_prefix) as cache:
        await cache.written.save(session, STATE, first)
        assert await find(cache.read, session, first) == first
        await cache.written.save(session, STATE, one)
        await cache.read.save(session, STATE, other)  # which cannot be: each follows the same message
    async with opened("redis", redis_url, redis_prefix) as late:
        assert [await find(late.read, session, each) for each in (first, one, other)] == [None, None, None]


async def test_what_was_flushed_is_written_whole_again(redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    key = f"{redis_prefix}chat:session:{session}:messages"
    async with Redis.from_url(redis_url) as redis, opened("other replica", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.written.save(session, STATE, kept)
        await redis.delete(key)
        kept = grown(kept, "more")
        await cache.written.save(session, STATE, kept)
        assert await find(cache.read, session, kept) == kept


@pytest.mark.parametrize("kind", KINDS)
async def test_one_too_large_is_not_kept_nor_what_was_there(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, small, large = SessionId(new_id()), history(), history("x" * 4_000_001)
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.written.save(session, STATE, small)
        await cache.written.save(session, STATE, large)
        assert await find(cache.read, session, large) is None
        assert await find(cache.read, session, small) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_forgotten_is_gone(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.written.remove(session)
        await cache.written.save(session, STATE, kept)
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
        await cache.written.save(session, STATE, kept)
        assert 3590 < await redis.ttl(key) <= 3600
        for strange in ("no json", "[]", '{"messages": 1}', '{"last_message_id": "x", "messages": [], "dropped": 0}'):
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
        await cache.written.save(session, STATE, kept)
        await cache.written.save(session, STATE, None)
        assert await find(cache.read, session, kept) is None


async def test_the_state_is_told_outside_for_a_day(redis_url: str, redis_prefix: str) -> None:
    session, key = SessionId(new_id()), f"{redis_prefix}session:"
    async with Redis.from_url(redis_url) as redis, opened("redis", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.written.save(session, STATE, None)
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
                group.create_task(cache.written.save(session, STATE, kept))
        for session, kept in sessions.items():
            assert await find(cache.read, session, kept) == kept
