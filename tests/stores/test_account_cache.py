"""Access tokens in Redis: under the name that the design says, until they are to be renewed, and never needed."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import UserId, new_id
from agentapi_mcp.core.accounts.models import Account, AccountKind
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.redis.accounts import RedisAccountCache
from agentapi_mcp.stores.redis.addresses import make_redis
from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.keys import ROW_READ
from tests.core.accounts.test_accounts import AccountSetup, LiveClock, another, open_setup
from tests.support.clocks import ManualClock
from tests.support.members import new_member
from tests.support.valkey import Valkey


def account(user_id: UserId, provider: str, issued_at: datetime, life: timedelta | None) -> Account:
    return Account(
        user_id=user_id,
        provider=provider,
        connected_at=issued_at,
        issued_at=issued_at,
        expires_at=None if life is None else issued_at + life,
    )


async def test_a_token_is_kept_for_its_user_and_provider_until_it_is_to_be_renewed(
    redis_url: str, redis_prefix: str
) -> None:
    clock, ann = ManualClock(), UserId(new_id())
    async with open_redis(redis_url, redis_prefix, clock) as client, make_redis(redis_url, deadline=5) as raw:
        cache = RedisAccountCache(client, clock)
        claim = await cache.claim(ann, ["vendor", "bank", "late"])
        await cache.put(account(ann, "vendor", clock.now(), timedelta(minutes=10)), b"sealed", claim)
        await cache.put(account(ann, "bank", clock.now(), None), b"for good", claim)
        await cache.put(account(ann, "late", clock.now(), timedelta(0)), b"due", claim)
        assert await cache.find(ann, ["bank", "late", "vendor"]) == {"vendor": b"sealed", "bank": b"for good"}
        assert await cache.find(UserId(new_id()), ["vendor"]) == {}
        names = [f"{redis_prefix}oauth_token:{ann}:{each}" for each in ("vendor", "bank")]
        lifetimes = [await raw.ttl(name) for name in names]
        assert 300 < lifetimes[0] <= 540
        assert 0 < lifetimes[1] <= 300
        await cache.remove(ann, "vendor")
        assert list(await cache.find(ann, ["vendor", "bank"])) == ["bank"]
        await raw.set(f"{redis_prefix}oauth_token:{ann}:bank", "no base64!")
        assert await cache.find(ann, ["bank"]) == {}


@asynccontextmanager
async def cached(
    database: Database, url: str, prefix: str, kind: AccountKind = AccountKind.OAUTH
) -> AsyncGenerator[AccountSetup]:
    """Open accounts whose tokens are cached in this Redis."""
    clock = LiveClock(SystemClock().now())
    async with (
        open_redis(url, prefix, clock) as client,
        open_setup(database, kind, clock=clock, cache=RedisAccountCache(client, clock)) as at,
    ):
        yield at


async def test_a_hot_token_spares_the_database_and_is_sealed(
    database: Database, redis_url: str, redis_prefix: str
) -> None:
    async with cached(database, redis_url, redis_prefix) as at:
        ann, eve = await new_member(database), await new_member(database)
        await at.connect(ann)
        token = await at.token(ann)
        (stored,) = (await at.store.find(ann.user_id)).values()
        assert await at.store.remove(stored)  # the row is gone, and nothing told this process
        available = await at.accounts.available(ann)
        assert (available.stored, await at.token(ann)) == ({}, token)
        async with make_redis(redis_url, deadline=5) as raw:
            content = str(await raw.get(f"{redis_prefix}oauth_token:{ann.user_id}:vendor"))
            assert token not in content
            assert "refresh" not in content
            # Moved to another user, it does not open: she is as one without an account.
            await raw.set(f"{redis_prefix}oauth_token:{eve.user_id}:vendor", content)
        assert not (await at.accounts.available(eve)).is_connected("vendor")


@pytest.mark.parametrize("kind", list(AccountKind))
async def test_who_disconnects_or_connects_anew_is_not_served_from_the_cache(
    kind: AccountKind, database: Database, redis_url: str, redis_prefix: str
) -> None:
    async with cached(database, redis_url, redis_prefix, kind) as at:
        ann = await new_member(database)
        await at.connect(ann)
        first = await at.token(ann)
        await at.connect(ann)
        assert await at.token(ann) != first
        await at.accounts.disconnect(ann, "vendor")
        assert not (await at.accounts.available(ann)).is_connected("vendor")


@pytest.mark.parametrize("kind", list(AccountKind))
async def test_a_turn_that_a_disconnect_overtook_does_not_put_the_token_back(
    kind: AccountKind, database: Database, redis_url: str, redis_prefix: str
) -> None:
    async with cached(database, redis_url, redis_prefix, kind) as at:
        ann = await new_member(database)
        await at.connect(ann)
        available = await at.accounts.available(ann)
        await at.accounts.disconnect(ann, "vendor")
        await at.accounts.token(ann, available, "vendor")
        assert not (await at.accounts.available(ann)).is_connected("vendor")


@pytest.mark.parametrize("kind", list(AccountKind))
async def test_a_turn_that_a_new_account_overtook_does_not_put_the_old_token_back(
    kind: AccountKind, database: Database, redis_url: str, redis_prefix: str
) -> None:
    async with cached(database, redis_url, redis_prefix, kind) as at:
        ann = await new_member(database)
        await at.connect(ann)
        available = await at.accounts.available(ann)
        await at.connect(ann)
        old = await at.accounts.token(ann, available, "vendor")
        assert await at.token(ann) != old.value.get_secret_value()


async def test_a_turn_that_a_renewal_overtook_does_not_put_the_old_token_back(
    database: Database, redis_url: str, redis_prefix: str
) -> None:
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(cached(database, redis_url, redis_prefix))
        ann = await new_member(database)
        await at.connect(ann)
        clock = LiveClock(at.clock.now())
        client = await stack.enter_async_context(open_redis(redis_url, redis_prefix, clock))
        cache = RedisAccountCache(client, clock)
        slow = await stack.enter_async_context(another(database, at.peer, clock=clock, cache=cache))
        at.clock.advance(timedelta(seconds=700))
        available, overtaken = await at.accounts.available(ann), await slow.accounts.available(ann)
        new = (await at.accounts.token(ann, available, "vendor")).value
        assert (await slow.accounts.token(ann, overtaken, "vendor")).value != new
        assert await at.token(ann) == new.get_secret_value()


async def test_a_disconnect_that_redis_did_not_hear_of_counts_within_ten_seconds(
    database: Database, redis_url: str, redis_prefix: str
) -> None:
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(cached(database, redis_url, redis_prefix))
        ann = await new_member(database)
        await at.connect(ann)
        await at.token(ann)
        # By a program without a Redis, as one that cannot reach it.
        alone = await stack.enter_async_context(another(database, at.peer, clock=at.clock))
        await alone.accounts.disconnect(ann, "vendor")
        raw = await stack.enter_async_context(make_redis(redis_url, deadline=5))
        row_read = ROW_READ.name(redis_prefix, f"{redis_prefix}oauth_token:{ann.user_id}:vendor")
        assert 0 < await raw.pttl(row_read) <= 10_000
        await raw.delete(row_read)
        assert await raw.exists(f"{redis_prefix}oauth_token:{ann.user_id}:vendor")
        assert not (await at.accounts.available(ann)).is_connected("vendor")


async def test_a_row_that_was_read_decides_against_a_cached_token(
    database: Database, redis_url: str, redis_prefix: str
) -> None:
    async with cached(database, redis_url, redis_prefix) as at:
        ann = await new_member(database)
        await at.connect(ann)
        await at.token(ann)
        (stored,) = (await at.store.find(ann.user_id)).values()
        assert await at.store.remove(stored)
        # A second provider, of which nothing is cached, lets the row be read.
        at.accounts.reload([at.provider, replace(at.provider, name="bank")])
        assert not (await at.accounts.available(ann)).is_connected("vendor")


async def test_without_redis_the_database_serves(database: Database, valkey: Valkey) -> None:
    async with cached(database, valkey.url, "") as at:
        ann = await new_member(database)
        await at.connect(ann)
        token = await at.token(ann)
        valkey.stop()
        assert await at.token(ann) == token
        at.clock.advance(timedelta(seconds=700))
        assert at.peer.accepts(await at.token(ann))
