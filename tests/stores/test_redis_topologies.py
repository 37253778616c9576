"""A Redis that Sentinel watches over, and a Redis cluster: used as one server is, and a failover costs no turn."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.ids import UserId, new_id
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.identity.leases import Claim, Terms
from agentapi_mcp.core.services import Services
from agentapi_mcp.stores.redis.client import RedisClient, open_redis
from agentapi_mcp.stores.redis.hot_copies import HotCopies
from agentapi_mcp.stores.redis.leases import RedisLeases
from agentapi_mcp.testing.http import Steps
from tests.support.clocks import ManualClock
from tests.support.databases import DatabaseUrls
from tests.support.peers.openai import OpenAIPeer
from tests.support.turn_loads import answer_through, check_each_answered_once, replica
from tests.support.valkeys import Clustered, Watched, open_clustered, open_watched
from tests.support.waiting import wait_until

LONG = timedelta(hours=1)
TERMS = Terms(resource="things", is_rate=False, most=10)
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def watched(place: Path) -> Iterator[Watched]:
    """Return a primary, its replica and a sentinel."""
    with open_watched(place) as servers:
        yield servers


@pytest.fixture
def clustered(place: Path) -> Iterator[Clustered]:
    """Return a cluster."""
    with open_clustered(place) as servers:
        yield servers


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://127.0.0.1:1",
        "redis+sentinel://127.0.0.1:1,/ours",
        "redis+sentinel://127.0.0.1:port/ours",
        "redis+sentinel://127.0.0.1:1/ours/0?nonsense",
        "redis+cluster://127.0.0.1:1/1",
        "redis+cluster://",
        "sentinel://127.0.0.1:1/ours",
    ],
)
async def test_what_is_no_address_shows_what_one_looks_like(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\+sentinel://host:26379,host:26379/NAME/0.*redis\+cluster://"):
        async with open_redis(url, "", ManualClock()):
            pass


@pytest.mark.parametrize("prefix", ["{", "a{b", "{}x:", "}{", "{a}{b"])
async def test_a_prefix_with_half_a_hash_tag_does_not_fit_a_cluster(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="AGENTAPI_REDIS_PREFIX has a brace"):
        async with open_redis("redis+cluster://127.0.0.1:9", prefix, ManualClock()):
            pass


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:9/ours", "redis+cluster://127.0.0.1:9"])
async def test_one_of_which_no_server_answers_is_told_and_not_waited_for(url: str) -> None:
    async with open_redis(url, "", ManualClock()) as client:
        assert await client.read(lambda redis: redis.get("key"), "default") == "default"
        assert client.is_backing_off


async def is_true_soon(work: Callable[[], Awaitable[bool]], clock: ManualClock) -> bool:
    """Repeat what a busy machine may fail to do in the second that a call has, until it is done."""
    async with asyncio.timeout(60):
        while not await work():
            clock.advance(LONG)
    return True


async def check_copies(client: RedisClient, clock: ManualClock) -> None:
    """Check that a copy is made under its claim, whatever is in its name."""
    copies, names = HotCopies(client), ["one", "two", "session:user/org/a client {named} so", "{}", "a}b"]
    texts = [f"text of {name}" for name in names]

    async def are_put() -> bool:
        claim = await copies.claim(names)
        return all([await copies.put(name, text, LONG, claim) for name, text in zip(names, texts, strict=True)])

    async def are_found() -> bool:
        return [found and found.text for found in await copies.find(names)] == texts

    assert await is_true_soon(are_put, clock)
    assert await is_true_soon(are_found, clock)


@pytest.mark.parametrize("prefix", ["", "ours:", "{ours}:"])
async def test_a_copy_and_its_claim_are_in_one_slot_of_a_cluster(clustered: Clustered, prefix: str) -> None:
    clock = ManualClock()
    async with open_redis(clustered.url, prefix, clock) as client:
        await check_copies(client, clock)
    copies = {key for key in clustered.list_keys() if not key.startswith(f"{prefix}row_read:")}
    claims = clustered.list_keys() - copies
    assert {key_slot(key.encode()) for key in copies} <= {key_slot(key.encode()) for key in claims}


async def test_claims_of_many_users_are_counted_on_all_nodes_of_a_cluster(clustered: Clustered) -> None:
    clock = ManualClock()
    async with open_redis(clustered.url, "", clock) as a, open_redis(clustered.url, "", clock) as b:
        claims = [Claim(TERMS, UserId(new_id()), 6) for _ in range(40)]
        one, two = RedisLeases(a), RedisLeases(b)

        async def are_counted() -> bool:
            # What is held is held for five seconds, and claimed again and again.
            return (await one.claim(claims), await two.claim(claims)) == ([6] * 40, [4] * 40)

        assert await is_true_soon(are_counted, clock)


@pytest.mark.parametrize("hangs", [False, True])
async def test_writes_alone_find_the_node_that_took_over(clustered: Clustered, *, hangs: bool) -> None:
    """What a process writes is sent in pipelines, of which the library tells no failure to itself."""

    async def write(redis: Redis) -> None:
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(50):
                pipe.execute_command("SET", f"key{number}", number)  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
            results = cast("list[object]", await pipe.execute(raise_on_error=False))
        for result in results:
            if isinstance(result, Exception):
                raise result

    clock = ManualClock()
    async with open_redis(clustered.url, "", clock) as client, asyncio.timeout(60):
        assert await client.write(write)
        await asyncio.to_thread(clustered.fail_over, hangs=hangs)
        while not await client.write(write):
            clock.advance(LONG)


async def part(services: Services) -> HealthStatus:
    """Tell how the part `redis` is."""
    report = await services.health.report(services.principal)
    return next(one.status for one in report.parts if one.name == "redis")


async def until_well(services: Services) -> None:
    async with asyncio.timeout(60):
        while await part(services) is not HealthStatus.HEALTHY:
            pass


async def answered(services: Services, session: str | None = None) -> str:
    """Ask something new, and return the session of the answer."""
    request = ChatRequest(message=uuid4().hex, agent="droid", session_id=session)
    turn = await services.turns.chat(services.principal, request, wait=timedelta(seconds=60))
    assert turn.status is TurnStatus.COMPLETED
    return str(turn.session_id)


async def is_kept(session: str, cluster: Clustered) -> bool:
    """Return whether a session's history comes into the cache soon."""
    key = f"chat:session:{session}:messages"
    try:
        await asyncio.to_thread(wait_until, lambda: key in cluster.list_keys(), seconds=2)
    except AssertionError:
        return False
    return True


async def test_no_turn_is_lost_when_sentinel_makes_another_server_the_primary(
    watched: Watched, own_database: DatabaseUrls, tmp_path: Path
) -> None:
    steps = Steps()
    async with (
        OpenAIPeer(pace=steps) as peer,
        replica(own_database.app, tmp_path, peer, redis=watched.url) as one,
        replica(own_database.app, tmp_path, peer, redis=watched.url) as two,
    ):
        await until_well(one)
        told = await answer_through([one, two], peer, steps, lambda: asyncio.to_thread(watched.fail_over))
        await until_well(one)
        await until_well(two)
        session = await answered(one)
        history = f"chat:session:{session}:messages"
        await asyncio.to_thread(wait_until, lambda: watched.replica.run("EXISTS", history))
    await check_each_answered_once(told, peer, own_database.owner)


async def test_no_turn_is_lost_when_a_replica_of_a_cluster_takes_over(
    clustered: Clustered, own_database: DatabaseUrls, tmp_path: Path
) -> None:
    steps = Steps()
    async with (
        OpenAIPeer(pace=steps) as peer,
        replica(own_database.app, tmp_path, peer, redis=clustered.url) as one,
        replica(own_database.app, tmp_path, peer, redis=clustered.url) as two,
    ):
        await until_well(one)
        told = await answer_through([one, two], peer, steps, lambda: asyncio.to_thread(clustered.fail_over))
        # One node may be well when another is asked; and what is on its way to one that is gone is lost.
        for services in (one, two):
            await until_well(services)
            async with asyncio.timeout(60):
                while not await is_kept(await answered(services), clustered):
                    pass
    await check_each_answered_once(told, peer, own_database.owner)
