"""Shares of users over several replicas, which lease them through one Redis: exact, bounded, and never in the way."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import cast
from uuid import uuid4

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from redis.asyncio import Redis
from typing_extensions import override

from agentapi_mcp.app.services import AppOptions
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import LimitExceededError
from agentapi_mcp.core.identity.leases import PATIENCE, RENEWAL, Leases
from agentapi_mcp.core.identity.shares import SHARES, Holder, Measure, Resource, Shares
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.redis.client import RedisClient, open_redis
from agentapi_mcp.stores.redis.leases import RedisLeases
from agentapi_mcp.web.application import WebOptions
from tests.support.clocks import ManualClock, SteppedClock
from tests.support.edges import Served, mcp_application, serve_app
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until

ANN, BO = Holder(uuid4(), uuid4()), Holder(uuid4(), uuid4())
LEASED = [resource for resource, share in SHARES.items() if share.is_leased]
RATES = [resource for resource in LEASED if SHARES[resource].measure is Measure.RATE]
OPEN = Resource.OPEN_REQUESTS
# Of a capacity of 400 one user may have 350, and 35 more on each replica that are not leased.
CAPACITY, MOST, SLICE = 400, 350, 35


@dataclass
class Replica:
    """The shares of one process, whose leases are claimed when the test says so."""

    shares: Shares
    leases: Leases
    clock: ManualClock
    held: dict[Holder, list[ExitStack]] = field(default_factory=dict[Holder, list[ExitStack]])
    refused: list[LimitExceededError] = field(default_factory=list[LimitExceededError])

    @property
    def number(self) -> int:
        """How many Ann holds."""
        return len(self.held.get(ANN, []))

    def take(self, resource: Resource = OPEN, holder: Holder = ANN) -> bool:
        """Take one; False where it is refused."""
        with ExitStack() as taken:
            try:
                if SHARES[resource].measure is Measure.RATE:
                    self.shares.use(resource, holder)
                else:
                    taken.enter_context(self.shares.held(resource, holder))
            except LimitExceededError as exc:
                self.refused.append(exc)
                return False
            self.held.setdefault(holder, []).append(taken.pop_all())
        return True

    def release(self, number: int = 1, holder: Holder = ANN) -> None:
        """Give some of what is held back."""
        for _ in range(number):
            self.held[holder].pop().close()

    def take_all(self, resource: Resource = OPEN, holder: Holder = ANN) -> int:
        """Take until refused, without anything claimed in between, and return how much that was."""
        taken = 0
        while self.take(resource, holder):
            taken += 1
        return taken

    async def take_leased(self, resource: Resource = OPEN, holder: Holder = ANN) -> int:
        """Take until refused, with every claim answered before the next one is taken."""
        taken = 0
        while self.take(resource, holder):
            taken += 1
            await self.leases.claim()
        return taken

    async def renew(self) -> None:
        """Renew, as every second."""
        self.leases.renew()
        await self.leases.claim()


@contextmanager
def replica(client: RedisClient, capacity: int = CAPACITY) -> Generator[Replica]:
    """Lease the shares of a process through a Redis."""
    clock = ManualClock()
    shares, leases = Shares(clock, dict.fromkeys(LEASED, capacity)), Leases(RedisLeases(client), clock)
    with shares.leased(leases):
        yield Replica(shares, leases, clock)


@asynccontextmanager
async def replicas(url: str, number: int = 2, capacity: int = CAPACITY) -> AsyncGenerator[list[Replica]]:
    """Open replicas on one Redis, each with a connection, and with a prefix of the test's own."""
    prefix = f"test-{uuid4().hex[:10]}:"
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_redis(url, prefix, ManualClock())) for _ in range(number)]
        yield [stack.enter_context(replica(client, capacity)) for client in clients]


async def seconds_of(url: str) -> float:
    """Return the time of a Redis, by which it forgets."""
    async with Redis.from_url(url, protocol=2) as redis:  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
        seconds, micros = await redis.time()  # pyright: ignore[reportUnknownMemberType]  # as above
    return seconds + micros / 1_000_000


def most_of(resource: Resource) -> int:
    return min(MOST, SHARES[resource].user or MOST)


def calls_of(valkey: Valkey) -> int:
    """Return how often leases were claimed."""
    stats = cast("dict[str, dict[str, int]]", valkey.run("INFO", "commandstats"))
    counted = stats.get("cmdstat_eval", {})
    return counted.get("calls", 0) + counted.get("rejected_calls", 0)


def held_keys(valkey: Valkey) -> list[str]:
    return valkey.keys("*share:open_requests:*:held")


def test_what_is_leased_is_rates_and_open_requests() -> None:
    assert set(LEASED) == {Resource.REQUESTS, Resource.SEARCHES, Resource.KEY_PAGES, OPEN}


async def test_one_user_holds_on_all_replicas_what_one_gives_and_a_slice_for_each(redis_url: str) -> None:
    async with replicas(redis_url, 3) as (one, two, three):
        # Each replica alone gives the whole share, exactly as without a Redis.
        assert await one.take_leased() == MOST
        await one.renew()
        assert await two.take_leased() == SLICE
        assert await three.take_leased() == SLICE
        for each in (two, three):
            [refusal] = each.refused
            assert SHARES[OPEN].what in str(refusal)
            assert SHARES[OPEN].mend in str(refusal)
            assert (refusal.retry_after, refusal.is_servers) == (SHARES[OPEN].wait, False)
        # Nobody else notices.
        assert await two.take_leased(holder=BO) > 0


@pytest.mark.parametrize("resource", RATES)
async def test_one_user_uses_on_all_replicas_what_one_gives_and_a_slice_for_each(
    resource: Resource, redis_url: str
) -> None:
    async with replicas(redis_url) as (one, two):
        most = most_of(resource)
        begun = await seconds_of(redis_url)
        assert await one.take_leased(resource) == most
        more = await two.take_leased(resource)
        # Up to half a slice of the first replica is not claimed, and Redis forgets evenly, by its own clock.
        forgotten = most * (await seconds_of(redis_url) - begun) / 60
        assert most / 10 <= more <= most / 10 * 1.5 + forgotten + 1


async def test_a_user_who_spreads_evenly_gets_no_less_than_on_one_replica(redis_url: str) -> None:
    async with replicas(redis_url) as both:
        taken = [0, 0]
        for _ in range(CAPACITY):
            for number, each in enumerate(both):
                taken[number] += each.take()
                await each.leases.claim()
        assert MOST <= sum(taken) <= MOST + 2 * SLICE
        assert abs(taken[0] - taken[1]) <= SLICE


async def take_a_step(each: Replica, step: str | int) -> None:
    match step:
        case "claim":
            await each.leases.claim()
        case "renew":
            await each.renew()
        case "take":
            each.take()
        case "release":
            each.release(min(1, each.number))
        case _:  # so many with their claims answered
            for _ in range(int(step)):
                each.take()
                await each.leases.claim()


STEPS = st.sampled_from(["take", "take", "take", "release", "claim", "renew"]) | st.integers(1, 60)


@settings(max_examples=40)
@given(st.integers(2, 120), st.lists(st.tuples(st.integers(0, 2), STEPS), max_size=60))
async def test_however_claims_are_delayed_a_user_holds_at_most_a_slice_more_on_each_replica(
    redis_url: str, capacity: int, steps: list[tuple[int, str | int]]
) -> None:
    async with replicas(redis_url, 3, capacity) as all_:
        most = capacity * 7 // 8
        for number, step in steps:
            await take_a_step(all_[number], step)
            assert sum(each.number for each in all_) <= most + 3 * max(1.0, most / 10)
        for each in all_:
            each.release(each.number)
            await each.renew()
        for each in all_:  # all of it is there again, on any replica
            assert await each.take_leased() == most
            each.release(most)
            await each.renew()


@settings(max_examples=30)
@given(
    capacity=st.integers(8, 200),
    steps=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 40)), max_size=20),
)
async def test_however_claims_are_delayed_a_user_uses_at_most_a_slice_more_on_each_replica(
    redis_url: str, capacity: int, steps: list[tuple[int, bool, int]]
) -> None:
    resource = Resource.REQUESTS
    async with replicas(redis_url, 3, capacity) as all_:
        most, taken, begun = capacity * 7 // 8, 0, await seconds_of(redis_url)
        for number, is_claimed, uses in steps:
            for _ in range(uses):
                taken += all_[number].take(resource)
                if is_claimed:
                    await all_[number].leases.claim()
        forgotten = most * (await seconds_of(redis_url) - begun) / 60
        assert taken <= most + 3 * max(1.0, most / 10) + forgotten + 1


async def test_a_burst_gets_a_slice_before_the_first_answer_and_goes_on_after_it(redis_url: str) -> None:
    async with replicas(redis_url) as (one, _):
        assert one.take_all() == SLICE
        await one.leases.claim()
        assert one.take_all() == SLICE
        await one.leases.claim()
        assert await one.take_leased() == MOST - 2 * SLICE


async def test_what_is_given_back_can_be_held_elsewhere_at_once(redis_url: str) -> None:
    async with replicas(redis_url) as (one, two):
        await one.take_leased()
        await two.take_leased()
        one.release(100)
        await one.leases.claim()
        assert not two.take()  # until it asks again, which it does every second
        await two.renew()
        assert await two.take_leased() in range(100 - SLICE, 100 + 1)


async def test_what_is_unused_is_given_back_with_the_next_renewal(valkey: Valkey) -> None:
    async with replicas(valkey.url) as (one, _):
        for _ in range(SLICE):
            one.take()
        await one.leases.claim()
        assert held_keys(valkey)
        one.release(SLICE // 2)
        await one.leases.claim()
        assert held_keys(valkey)  # so little is not worth a call
        one.release(one.number - 1)
        await one.renew()
        assert held_keys(valkey) == []  # the last one is within the slice
        calls = calls_of(valkey)
        await one.renew()
        assert calls_of(valkey) == calls


async def test_who_was_refused_is_not_claimed_for_with_every_request(valkey: Valkey) -> None:
    async with replicas(valkey.url) as (one, two):
        await one.take_leased()
        await two.take_leased()
        await two.renew()
        calls = calls_of(valkey)
        assert not two.take()
        await two.leases.claim()
        assert calls_of(valkey) == calls


async def test_what_is_held_again_while_its_claim_is_under_way_stays_leased(valkey: Valkey) -> None:
    async with replicas(valkey.url) as (one, _), asyncio.TaskGroup() as group:
        for _ in range(SLICE):
            one.take()
        valkey.hang()
        claim = group.create_task(one.leases.claim())
        await asyncio.wait([claim], timeout=0)
        one.release(SLICE)
        for _ in range(SLICE):
            one.take()
        valkey.go_on()
        await claim
        await one.leases.claim()
        [key] = held_keys(valkey)
        [entry] = cast("list[str]", valkey.run("HVALS", key))
        assert entry.startswith(f"{SLICE} ")


async def test_a_replica_that_dies_gives_its_lease_back_within_seconds(valkey: Valkey) -> None:
    async with replicas(valkey.url) as (dead, two):
        await dead.take_leased()
        await dead.renew()
        [key] = held_keys(valkey)
        assert 0 < cast("int", valkey.run("TTL", key)) <= 5
        await two.take_leased()
        await two.renew()  # which renews its own lease, and it has none
        [entry] = cast("list[str]", valkey.run("HVALS", key))
        amount, ends = entry.split()
        seconds, micros = cast("list[str]", valkey.run("TIME"))
        now = int(seconds) * 1_000_000 + int(micros)
        assert int(ends) <= now + 5_000_000
        [replica_id] = cast("list[str]", valkey.run("HKEYS", key))
        valkey.run("HSET", key, replica_id, f"{amount} {now}")
        await two.renew()
        assert await two.take_leased() == MOST - SLICE


async def test_a_rate_that_was_refused_is_claimed_again_with_every_renewal(valkey: Valkey) -> None:
    async with replicas(valkey.url) as (one, two):
        await one.take_leased(Resource.REQUESTS)
        await two.take_leased(Resource.REQUESTS)
        [key] = valkey.keys("*:used")
        valkey.run("DEL", key)  # as if a minute had passed for Redis
        assert not two.take(Resource.REQUESTS)
        await two.renew()
        calls = calls_of(valkey)
        await two.renew()
        assert calls_of(valkey) == calls
        assert two.take_all(Resource.REQUESTS) > 0


async def test_a_rate_that_was_refused_before_an_outage_is_claimed_again_after_it(valkey: Valkey) -> None:
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_redis(valkey.url, "", clock)) for _ in range(2)]
        one, two = (stack.enter_context(replica(client)) for client in clients)
        await one.take_leased(Resource.REQUESTS)
        await two.take_leased(Resource.REQUESTS)
        valkey.stop()
        await two.renew()
        valkey.start()
        clock.advance(timedelta(seconds=5))  # past the backoff
        await two.renew()
        assert not two.take(Resource.REQUESTS)
        await two.leases.claim()
        assert two.take(Resource.REQUESTS)


async def test_a_share_of_a_few_is_claimed_although_a_part_of_one_is_forgotten(valkey: Valkey) -> None:
    clock = ManualClock()
    async with open_redis(valkey.url, "", clock) as client, AsyncExitStack() as stack:
        one = stack.enter_context(replica(client, 8))
        valkey.stop()
        assert one.take(Resource.REQUESTS)
        await one.leases.claim()
        valkey.start()
        clock.advance(timedelta(seconds=45))
        one.clock.advance(timedelta(seconds=45))
        await one.renew()
        assert not one.take(Resource.REQUESTS)
        await one.leases.claim()
        assert one.take(Resource.REQUESTS)


async def test_what_was_used_while_redis_was_away_is_not_claimed_afterwards(valkey: Valkey) -> None:
    clock = ManualClock()
    async with open_redis(valkey.url, "", clock) as client, AsyncExitStack() as stack:
        one = stack.enter_context(replica(client))
        valkey.stop()
        one.take_all(Resource.REQUESTS)
        await one.leases.claim()
        assert one.take_all(Resource.REQUESTS) == MOST - SLICE
        valkey.start()
        clock.advance(timedelta(minutes=1))
        one.clock.advance(timedelta(minutes=1))
        await one.renew()
        assert not one.leases.is_alone
        assert one.take(Resource.REQUESTS)
        await one.renew()
        assert valkey.keys() == []


async def test_an_answer_settles_what_was_asked_before_it(valkey: Valkey) -> None:
    async with replicas(valkey.url) as (one, _), asyncio.TaskGroup() as group:
        for _ in range(SLICE):
            one.take()
        valkey.hang()
        claim = group.create_task(one.leases.claim())
        await asyncio.wait([claim], timeout=0)
        one.release()
        valkey.go_on()
        await claim
        calls = calls_of(valkey)
        await one.leases.claim()
        assert calls_of(valkey) == calls == 1


async def test_once_the_program_has_closed_redis_its_shares_are_its_own(redis_url: str) -> None:
    async with open_redis(redis_url, f"test-{uuid4().hex[:10]}:", ManualClock()) as client:
        with replica(client) as one:
            assert one.take_all() == SLICE
        assert one.take_all() == MOST - SLICE


async def test_who_needs_little_costs_redis_nothing(valkey: Valkey) -> None:
    clock = SteppedClock()
    async with open_redis(valkey.url, "", ManualClock()) as client:
        leases = Leases(RedisLeases(client), clock)
        shares = Shares(ManualClock(), {OPEN: CAPACITY, Resource.REQUESTS: CAPACITY})
        with shares.leased(leases), ExitStack() as held:
            async with leases.running():
                for _ in range(SLICE // 2):
                    held.enter_context(shares.held(OPEN, ANN))
                    shares.use(Resource.REQUESTS, ANN)
                for _ in range(3):
                    assert await clock.next_wait() == RENEWAL
                    clock.end_wait()
                await clock.next_wait()
                assert calls_of(valkey) == 0
                for _ in range(SLICE // 2):
                    held.enter_context(shares.held(OPEN, ANN))
                    shares.use(Resource.REQUESTS, ANN)
                await asyncio.to_thread(wait_until, lambda: valkey.keys("share:*:held") and valkey.keys("share:*:used"))


async def test_leases_are_renewed_in_the_background_and_claimed_anew_after_an_eviction(valkey: Valkey) -> None:
    clock = SteppedClock()
    async with open_redis(valkey.url, "", ManualClock()) as client:
        leases = Leases(RedisLeases(client), clock)
        shares = Shares(ManualClock(), {OPEN: CAPACITY})
        with shares.leased(leases), ExitStack() as held:
            async with leases.running():
                for _ in range(SLICE):
                    held.enter_context(shares.held(OPEN, ANN))
                await asyncio.to_thread(wait_until, lambda: held_keys(valkey))
                valkey.run("FLUSHALL")
                assert await clock.next_wait() == RENEWAL
                clock.end_wait()
                await asyncio.to_thread(wait_until, lambda: held_keys(valkey))


async def test_one_that_fails_is_asked_once_a_second_until_it_works(valkey: Valkey) -> None:
    clock = SteppedClock()
    async with open_redis(valkey.url, "", ManualClock()) as client:
        leases = Leases(RedisLeases(client), clock)
        shares = Shares(ManualClock(), {OPEN: CAPACITY})
        with shares.leased(leases):
            async with leases.running():
                valkey.run("CONFIG", "SET", "maxmemory", "1")
                with ExitStack() as held:
                    for _ in range(SLICE):
                        held.enter_context(shares.held(OPEN, ANN))
                    await asyncio.to_thread(wait_until, lambda: leases.is_alone)
                    calls = calls_of(valkey)
                    for _ in range(SLICE):
                        held.enter_context(shares.held(OPEN, ANN))
                        await client.read(lambda redis: redis.get("x"), None)
                    assert calls_of(valkey) == calls
                # Full, it refuses also a claim of nothing.
                await clock.next_wait()
                clock.end_wait()
                await clock.next_wait()
                await asyncio.to_thread(wait_until, lambda: calls_of(valkey) > calls)
                await client.read(lambda redis: redis.get("x"), None)
                assert leases.is_alone
                valkey.run("CONFIG", "SET", "maxmemory", "0")
                clock.end_wait()
                await asyncio.to_thread(wait_until, lambda: not leases.is_alone)


async def test_after_an_eviction_the_bound_holds_again_with_the_next_renewal(valkey: Valkey) -> None:
    async with replicas(valkey.url) as (one, two):
        await one.take_leased()
        valkey.run("FLUSHALL")
        await one.renew()
        assert await two.take_leased() == SLICE


async def expect_alone(each: Replica, so_far: int) -> None:
    """Expect that this replica gives what it gives without a Redis, at once."""
    assert each.take_all() == MOST - so_far
    for resource in RATES:
        assert each.take_all(resource) == most_of(resource)


@pytest.mark.parametrize("trouble", ["stopped", "full", "read-only", "no rights", "no scripts"])
async def test_without_redis_each_replica_counts_alone_and_the_log_says_it_once(
    trouble: str, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with replicas(valkey.url) as (one, two):
        assert await one.take_leased() == MOST
        match trouble:
            case "stopped":
                valkey.stop()
            case "full":
                valkey.run("CONFIG", "SET", "maxmemory", "1")
            case "read-only":
                valkey.run("REPLICAOF", "127.0.0.1", "1")
            case "no rights":
                valkey.run("ACL", "SETUSER", "default", "-eval")
            case _:
                valkey.run("ACL", "SETUSER", "default", "resetkeys", "~else:*")  # to scripts, as to all else
        so_far = two.take_all()
        await two.leases.claim()  # it fails
        assert two.leases.is_alone
        await expect_alone(two, so_far)
        for _ in range(3):
            await two.renew()
        assert [record.message for record in caplog.records] == ["redis_unavailable"]


async def test_while_only_scripts_are_refused_writes_do_not_say_that_redis_is_back(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_redis(valkey.url, "", ManualClock()) as client, AsyncExitStack() as stack:
        one = stack.enter_context(replica(client))
        valkey.run("ACL", "SETUSER", "default", "-eval")
        for _ in range(3):
            one.take_all()
            await one.renew()
            await client.write(lambda redis: redis.set("x", "1", ex=1))
        assert [record.message for record in caplog.records] == ["redis_unavailable"]
        valkey.run("ACL", "SETUSER", "default", "+eval")
        await one.renew()
        assert [record.message for record in caplog.records] == ["redis_unavailable", "redis_back"]


async def test_a_full_redis_that_takes_writes_again_is_back_although_nobody_claims(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_redis(valkey.url, "", ManualClock()) as client, AsyncExitStack() as stack:
        one = stack.enter_context(replica(client))
        valkey.run("CONFIG", "SET", "maxmemory", "1")
        one.take_all()
        await one.renew()
        valkey.run("CONFIG", "SET", "maxmemory", "0")
        await client.write(lambda redis: redis.set("x", "1", ex=1))
        assert [record.message for record in caplog.records] == ["redis_unavailable", "redis_back"]


async def test_a_redis_that_works_again_is_used_with_the_next_renewal(valkey: Valkey) -> None:
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_redis(valkey.url, "", clock)) for _ in range(2)]
        one, two = (stack.enter_context(replica(client)) for client in clients)
        valkey.stop()
        for each in (one, two):
            await each.renew()
            each.take_all()
            await each.leases.claim()
            assert each.take_all() + SLICE == MOST
        valkey.start()
        clock.advance(timedelta(seconds=5))  # past the backoff
        # What was taken alone stays taken, and only one of them leases it.
        await one.renew()
        await two.renew()
        assert not one.leases.is_alone
        assert not two.leases.is_alone
        two.release(MOST - SLICE)
        await two.renew()
        assert not two.take()
        one.release(100)
        await one.leases.claim()
        await two.renew()
        assert await two.take_leased() == 100


async def test_a_redis_that_hangs_keeps_nobody_back(valkey: Valkey) -> None:
    async with replicas(valkey.url) as (one, _), asyncio.TaskGroup() as group:
        valkey.hang()
        assert one.take_all() == SLICE
        claim = group.create_task(one.leases.claim())
        await asyncio.wait([claim], timeout=0)
        assert one.take_all() == 0
        one.clock.advance(PATIENCE * 2)
        await expect_alone(one, SLICE)
        await claim
        assert one.leases.is_alone
        valkey.go_on()


async def test_an_address_or_what_a_proxy_sent_for_one_stands_hashed_in_redis(valkey: Valkey) -> None:
    hostile = ["203.0.113.7", "2001:db8::/64", "\udcff:*", "", None]
    async with open_redis(valkey.url, "ours:", ManualClock()) as client, AsyncExitStack() as stack:
        one = stack.enter_context(replica(client))
        for user in hostile:
            assert await one.take_leased(Resource.KEY_PAGES, Holder(user)) > 0
        await one.take_leased(Resource.KEY_PAGES)
        keys = valkey.keys()
        assert len(keys) == len(hostile) + 1
        assert all(key.isascii() and key.startswith("ours:share:key_pages:") for key in keys)
        assert not [key for key in keys if "203.0" in key or "2001" in key]
        assert f"ours:share:key_pages:{ANN.user}:used" in keys
        assert all(0 < cast("int", valkey.run("PTTL", key)) <= 60_000 for key in keys)


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "tests", "version": "1"},
    },
}
ACCEPTS = {"accept": "application/json, text/event-stream"}


class StillClock(SystemClock):
    """The time of day, while nothing is forgotten and no answer takes long."""

    @override
    def monotonic(self) -> float:
        """Stand still."""
        return 0.0


@asynccontextmanager
async def served(home: Path, url: str, prefix: str) -> AsyncGenerator[Served]:
    """Serve a whole program with a Redis over HTTP."""
    # The share of a user is 70 requests, and a slice 7.
    given = Settings(home=home, redis_url=SecretStr(url), redis_prefix=prefix, postgres_linger_seconds=20)
    options = AppOptions(capacities={Resource.REQUESTS: 80})
    async with open_app(given, {}, clock=StillClock(), options=options) as app:
        await app.services_provider.services()
        server = create_server(app.services_provider, McpOptions())
        async with serve_app(mcp_application(server, WebOptions(shares=app.shares))) as place:
            yield place


async def send(http: httpx2.AsyncClient, places: Sequence[Served]) -> int:
    """Send a request to each of them, and return how many were let in."""
    answers = [await http.post(place.mcp, json=INITIALIZE, headers=ACCEPTS) for place in places]
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status_code == 429)
    return sum(answer.status_code == 200 for answer in answers)


@pytest.mark.timeout(60)
async def test_a_user_of_two_replicas_sends_as_many_requests_as_to_one(
    edge_home: Path, redis_url: str, redis_prefix: str
) -> None:
    async with (
        served(edge_home, redis_url, redis_prefix) as one,
        served(edge_home, redis_url, redis_prefix) as two,
        httpx2.AsyncClient(timeout=25) as http,
    ):
        begun, accepted = await seconds_of(redis_url), 0
        while accepted < 70:
            accepted += await send(http, (one, two))
        for _ in range(30):
            accepted += await send(http, (one, two))
        forgotten = 70 * (await seconds_of(redis_url) - begun) / 60
        assert accepted <= 70 + 2 * 7 + forgotten + 1
