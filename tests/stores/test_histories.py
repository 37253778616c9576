"""Recent history: the same behaviour in one process and in Redis."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Literal

import pytest
from redis.asyncio import Redis

from agentapi_mcp.core.ids import new_id
from agentapi_mcp.core.records.ids import MessageId, SessionId
from agentapi_mcp.core.records.sessions import History, HistoryMessage, MessageRole
from agentapi_mcp.core.store_ports import HistoryCache
from agentapi_mcp.stores.local.histories import LocalHistories
from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.histories import RedisHistories
from tests.support.hosts import ManualClock

Kind = Literal["local", "redis"]
KINDS: tuple[Kind, ...] = ("local", "redis")


@asynccontextmanager
async def opened(kind: Kind, url: str, prefix: str) -> AsyncGenerator[HistoryCache]:
    """Open a cache of this kind."""
    if kind == "local":
        yield LocalHistories(ManualClock())
        return
    async with open_redis(url, prefix, ManualClock()) as client:
        yield RedisHistories(client)


def history(text: str = "hello ∑ \U0001f600") -> History:
    messages = (HistoryMessage(MessageRole.USER, text), HistoryMessage(MessageRole.ASSISTANT, "yes"))
    return History(messages, dropped=3, last_message_id=MessageId(new_id()))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_kept_is_found_as_it_was(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, kept = SessionId(new_id()), history()
    async with opened(kind, redis_url, redis_prefix) as cache:
        assert await cache.find(session) is None
        await cache.keep(session, kept)
        assert await cache.find(session) == kept
        assert await cache.find(SessionId(new_id())) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_a_newer_history_replaces_the_older(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session, newer = SessionId(new_id()), history("newer")
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.keep(session, history("older"))
        await cache.keep(session, newer)
        assert await cache.find(session) == newer


@pytest.mark.parametrize("kind", KINDS)
async def test_one_too_large_is_not_kept_nor_what_was_there(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session = SessionId(new_id())
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.keep(session, history())
        await cache.keep(session, history("x" * 4_000_001))
        assert await cache.find(session) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_forgotten_is_gone(kind: Kind, redis_url: str, redis_prefix: str) -> None:
    session = SessionId(new_id())
    async with opened(kind, redis_url, redis_prefix) as cache:
        await cache.forget(session)
        await cache.keep(session, history())
        await cache.forget(session)
        assert await cache.find(session) is None


async def test_the_local_one_forgets_after_an_hour() -> None:
    clock, session = ManualClock(), SessionId(new_id())
    cache = LocalHistories(clock)
    await cache.keep(session, history())
    clock.advance(timedelta(minutes=59))
    assert await cache.find(session) is not None
    clock.advance(timedelta(minutes=2))
    assert await cache.find(session) is None


async def test_the_shared_one_lives_an_hour_and_reads_only_its_own_form(redis_url: str, redis_prefix: str) -> None:
    session = SessionId(new_id())
    key = f"{redis_prefix}chat:session:{session}:messages"
    async with Redis.from_url(redis_url) as redis, opened("redis", redis_url, redis_prefix) as cache:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        await cache.keep(session, history())
        assert 3590 < await redis.ttl(key) <= 3600
        for strange in ("no json", "[]", '{"messages": 1}', '{"last_message_id": "x", "messages": [], "dropped": 0}'):
            await redis.set(key, strange, ex=60)
            assert await cache.find(session) is None


async def test_both_forget_under_concurrent_use(redis_url: str, redis_prefix: str) -> None:
    sessions = [SessionId(new_id()) for _ in range(50)]
    async with opened("redis", redis_url, redis_prefix) as cache:
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(cache.keep(session, history(str(session))))
        for session in sessions:
            found = await cache.find(session)
            assert found is not None
            assert found.messages[0].text == str(session)
