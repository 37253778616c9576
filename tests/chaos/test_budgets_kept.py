"""Budgets in a world of real programs: three replicas, their Postgres and Redis, and a provider that keeps a log."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from uuid import uuid4

import asyncpg
import pytest
from chaos.clients import BareClient, Client, RefusedError
from chaos.evidence import INPUT_NANOS, OUTPUT_NANOS, Message, Period, Refusal, marked, nanos_of, read_log, usage_of
from chaos.invariants import check
from chaos.limits import operator
from chaos.load import tell
from chaos.postgres import Programs
from chaos.timing import now, until
from chaos.world import AGENT, LONGEST, Shape, World, open_place, open_world

from agentapi_mcp.core.budgets.models import BudgetKind

pytestmark = pytest.mark.acceptance
CALLS = 100
SHORT = "[[pieces=2]]"
LONG = "[[pieces=60 pace=0.1]]"


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    with open_place() as place:
        chance = random.Random(1)  # noqa: S311  # by which the balancer chooses
        async with open_world(Shape(), Programs.copied_to(place), chance) as made:
            yield made


def client_of(world: World, number: int | None = None) -> BareClient:
    """Return a client of the balancer, or of one replica."""
    url = world.balancer.url if number is None else world.replicas[number].url
    return BareClient(world.http, url, "2026-07-28")


def reserved_for(message: Message, words: str) -> int:
    """Return what a message reserves: the longest answer, and its own tokens, of four bytes each."""
    return LONGEST * OUTPUT_NANOS + -(-len(marked(message.marker, words)) // 4) * INPUT_NANOS


async def limit(world: World, nanos: int) -> None:
    """Set a hard budget."""
    async with operator(world) as (who, set_):
        await set_(who.org_id, BudgetKind(), nanos)


async def send(client: Client, message: Message, words: str, wait: int = 60) -> None:
    """Send a message with a key, and note what is told."""
    arguments = {"message": marked(message.marker, words), "agent": AGENT, "wait_seconds": wait}
    try:
        await tell(client, message, "chat", {**arguments, "idempotency_key": f"k-{message.marker}"}, 90)
    except RefusedError as exc:
        message.refusals.append(Refusal(at=now(), kind=exc.kind, text=exc.text))


async def held_by(world: World) -> int:
    """Return what is reserved in all budgets together."""
    connection = await asyncpg.connect(world.store.admin_url)
    try:
        return int(await connection.fetchval("SELECT sum(reserved_nanos) FROM agentapi.budget_periods"))
    finally:
        await connection.close()


async def spent_of(world: World) -> list[Period]:
    """Return what the database has of the hard budgets."""
    return [period for period in (await world.evidence([])).periods if period.hard]


async def all_holds(world: World, messages: list[Message]) -> bool:
    """Tell whether no rule is violated; the audit log is written a moment later."""

    async def holds() -> bool:
        return not check(await world.evidence(messages))

    return await until(holds, 30, 0.5)


async def is_asked(world: World, message: Message) -> None:
    """Wait until the provider has the message."""

    async def asked() -> bool:
        return message.marker in {each.marker for each in read_log(world.provider.log)}

    assert await until(asked, 60)


async def is_settled(world: World) -> bool:
    """Wait until every turn has ended."""

    async def settled() -> bool:
        return await world.open_turns() == 0

    return await until(settled, 90)


async def test_a_hundred_calls_over_three_replicas_never_exceed_a_budget_and_each_is_told(world: World) -> None:
    messages = [Message(marker=uuid4().hex) for _ in range(CALLS)]
    await limit(world, 20 * reserved_for(messages[0], SHORT))
    async with asyncio.TaskGroup() as group:
        for message in messages:
            group.create_task(send(client_of(world), message, SHORT))
    ends = Counter(message.last.status if message.last else message.is_over_budget for message in messages)
    assert set(ends) == {"completed", True}
    # As many as had room at once, and no more for what these have cost.
    assert 1 < ends["completed"] <= 20
    assert len(read_log(world.provider.log)) == ends["completed"]
    assert await all_holds(world, messages)
    assert await held_by(world) == 0


async def test_a_server_that_is_killed_in_mid_turn_leaves_no_reservation(world: World) -> None:
    await limit(world, 1_000_000)
    message = Message(marker=uuid4().hex)
    async with asyncio.TaskGroup() as group:
        group.create_task(send(client_of(world, 0), message, LONG))
        await is_asked(world, message)
        assert await held_by(world) > 0
        await world.replicas[0].kill()
    assert await is_settled(world)
    assert await held_by(world) == 0
    # Nobody knows what it has cost: what it had reserved counts.
    periods = await spent_of(world)
    assert [period.unpriced for period in periods] == [1, 1]
    assert {period.spent_nanos for period in periods} == {reserved_for(message, LONG)}
    assert await all_holds(world, [message])


async def test_what_ends_while_postgres_is_away_and_redis_forgets_is_paid_once(world: World) -> None:
    await limit(world, 1_000_000)
    message = Message(marker=uuid4().hex)

    async def answered() -> bool:
        return read_log(world.provider.log)[0].ended_at is not None

    async def told() -> bool:
        await send(client_of(world), message, LONG)  # again, with its key
        return message.last is not None and message.last.status == "completed"

    async with asyncio.TaskGroup() as group:
        group.create_task(send(client_of(world), message, LONG))
        await is_asked(world, message)
        assert world.valkey is not None
        world.valkey.run("FLUSHALL")
        await world.store.kill()
        assert await until(answered, 60)
        await world.store.start()
    assert await until(told, 90)
    assert {period.spent_nanos for period in await spent_of(world)} == {nanos_of(usage_of(message.marker))}
    assert await held_by(world) == 0
    assert await all_holds(world, [message])
