"""Hot copies of rows: made under the claim of who reads a row, and trusted no longer than that is known of."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.hot_copies import Copy, HotCopies
from tests.support.clocks import ManualClock

LONG = timedelta(hours=1)


@asynccontextmanager
async def open_copies(url: str, prefix: str) -> AsyncGenerator[HotCopies]:
    async with open_redis(url, prefix, ManualClock()) as client:
        yield HotCopies(client)


async def text_of(copies: HotCopies, name: str) -> str | None:
    found: Copy | None = (await copies.find([name]))[0]
    return found and found.text


async def test_a_copy_is_found_under_its_name_alone(redis_url: str, redis_prefix: str) -> None:
    async with open_copies(redis_url, redis_prefix) as copies:
        claim = await copies.claim(["one", "two"])
        assert await copies.put("two", "text", LONG, claim)
        assert [found and found.text for found in await copies.find(["one", "two"])] == [None, "text"]


async def test_a_claim_makes_one_copy(redis_url: str, redis_prefix: str) -> None:
    async with open_copies(redis_url, redis_prefix) as copies:
        claim = await copies.claim(["name"])
        assert await copies.put("name", "first", LONG, claim)
        assert not await copies.put("name", "second", LONG, claim)
        assert await text_of(copies, "name") == "first"


@pytest.mark.parametrize("overtaken_by", ["removal", "claim"])
async def test_a_claim_ends_when_the_row_changes_or_is_claimed_anew(
    overtaken_by: str, redis_url: str, redis_prefix: str
) -> None:
    async with open_copies(redis_url, redis_prefix) as copies:
        claim = await copies.claim(["name"])
        await (copies.remove("name") if overtaken_by == "removal" else copies.claim(["name"]))
        assert not await copies.put("name", "old", LONG, claim)
        assert await text_of(copies, "name") is None


async def test_a_copy_is_not_trusted_while_its_row_is_read_again(redis_url: str, redis_prefix: str) -> None:
    async with open_copies(redis_url, redis_prefix) as copies:
        await copies.put("name", "old", LONG, await copies.claim(["name"]))
        claim = await copies.claim(["name"])
        assert await text_of(copies, "name") is None
        await copies.put("name", "new", LONG, claim)
        assert await text_of(copies, "name") == "new"


async def test_what_has_no_life_left_is_not_copied(redis_url: str, redis_prefix: str) -> None:
    async with open_copies(redis_url, redis_prefix) as copies:
        claim = await copies.claim(["name"])
        assert not await copies.put("name", "late", timedelta(0), claim)
        assert await copies.put("name", "in time", timedelta(seconds=30), claim)
