"""Callers who follow a turn through another process count, and so does how they leave."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.core.conversations.models import EndReason, Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.testing.http import Exchange
from tests.support.worlds import LONG, NOW, SLOW, World, asks

DAY = timedelta(days=1)
PATH = "/api/v1/chat/completions"


async def in_a_session(world: World, server: Services) -> ChatRequest:
    """Begin a session, in which the same message joins at once, and return one that takes its time."""
    return asks(SLOW, session_id=str((await world.answered(server, asks())).session_id))


async def asked(world: World, server: Services, request: ChatRequest) -> tuple["asyncio.Future[Turn]", Exchange]:
    """Ask, and return the task that waits, and what the provider received."""
    seen = len(world.peer.exchanges)
    asking = asyncio.ensure_future(server.turns.chat(server.principal, request, wait=LONG))
    return asking, await world.peer.received(seen + 1, path=PATH)


async def joined(world: World, server: Services, request: ChatRequest) -> "asyncio.Future[Turn]":
    """Ask the same through another process, and wait until its owner can know of that."""
    asking = asyncio.ensure_future(server.turns.chat(server.principal, request, wait=LONG))
    await world.until("followed_at IS NOT NULL AND status = 'running'")
    return asking


async def leave(asking: "asyncio.Future[Turn]", how: Departure) -> None:
    """Leave in this way."""
    asking.cancel(how)
    await asyncio.wait({asking})


@asynccontextmanager
async def joining(world: World, server: Services, request: ChatRequest) -> AsyncGenerator["asyncio.Future[Turn]"]:
    """Ask the same through a process that is kept, until the end of this context, from noting that it joins."""
    await world.until("caller_gone_at IS NOT NULL")  # nothing else waits for the lock
    async with world.owner.transaction():
        await world.owner.execute("SELECT FROM agentapi.turns WHERE status = 'running' FOR UPDATE")
        asking = asyncio.ensure_future(server.turns.chat(server.principal, request, wait=LONG))
        await world.keeps_waiting()
        yield asking


async def grace_over(world: World, server: Services) -> None:
    """Wait until a turn without a caller was stopped that is younger than all others: those would have been before."""
    asking, exchange = await asked(world, server, asks(SLOW))
    await leave(asking, Departure.UNCLEAR)
    await exchange.gone.wait()


async def given_up(world: World, exchange: Exchange) -> int:
    """Wait until the request to the provider is closed and its turn has ended, and count such turns."""
    await exchange.gone.wait()
    await world.until("ended_at IS NOT NULL AND end_reason = $1", EndReason.ABANDONED)
    return await world.owner.fetchval("SELECT count(*) FROM agentapi.turns WHERE status = 'cancelled'")


async def test_stop_through_another_process_ends_the_turn(world: World) -> None:
    owner, other = await world.program(abandon_grace=DAY), await world.program()
    request = await in_a_session(world, owner)
    first, exchange = await asked(world, owner, request)
    second = await joined(world, other, request)
    await leave(first, Departure.UNCLEAR)
    await leave(second, Departure.STOPPED)
    assert await given_up(world, exchange) == 1


async def test_a_caller_who_stops_while_it_joins_through_another_process_ends_the_turn(world: World) -> None:
    owner, other = await world.program(abandon_grace=DAY), await world.program()
    request = await in_a_session(world, owner)
    first, exchange = await asked(world, owner, request)
    await leave(first, Departure.UNCLEAR)
    async with joining(world, other, request) as second:
        await leave(second, Departure.STOPPED)
    assert await given_up(world, exchange) == 1


async def left_at_once(server: Services, request: ChatRequest, how: Departure) -> None:
    """Ask, and leave as soon as the request is on its way to be accepted."""
    asking = asyncio.ensure_future(server.turns.chat(server.principal, request, wait=LONG))
    await asyncio.sleep(0)  # noqa: TID251  # one step of the loop, in which it is submitted
    await leave(asking, how)


async def test_a_caller_who_stops_while_it_joins_in_the_same_process_ends_the_turn(world: World) -> None:
    owner = await world.program(abandon_grace=DAY)
    request = await in_a_session(world, owner)
    first, exchange = await asked(world, owner, request)
    await leave(first, Departure.UNCLEAR)
    await left_at_once(owner, request, Departure.STOPPED)
    assert await given_up(world, exchange) == 1


async def test_a_turn_runs_on_for_a_caller_who_timed_out_while_it_joined(world: World) -> None:
    owner = await world.program(abandon_grace=NOW)
    request = await in_a_session(world, owner)
    first, _ = await asked(world, owner, request)
    await leave(first, Departure.TIMED_OUT)
    await left_at_once(owner, request, Departure.TIMED_OUT)
    await grace_over(world, owner)
    world.steps.release(20)
    assert (await world.answered(owner, request)).status is TurnStatus.COMPLETED


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_turn_that_is_joined_while_it_is_stopped_answers_nobody_but_its_key(
    key: str | None, world: World
) -> None:
    owner, other = await world.program(abandon_grace=NOW), await world.program()
    request = asks(SLOW, idempotency_key=key)
    first, exchange = await asked(world, owner, request)
    async with world.owner.transaction():
        # The end of the turn cannot be stored meanwhile.
        await world.owner.execute("SELECT FROM public.chat_sessions FOR UPDATE")
        await leave(first, Departure.UNCLEAR)
        await exchange.gone.wait()
        second = asyncio.ensure_future(other.turns.chat(other.principal, request, wait=LONG))
        await world.until("status = 'running' AND followed_at > caller_gone_at")
    world.steps.release(20)
    turn = await second
    if key is None:
        assert (turn.status, turn.joined) == (TurnStatus.COMPLETED, False)
        return
    assert (turn.status, turn.end_reason, turn.joined) == (TurnStatus.CANCELLED, EndReason.ABANDONED, True)
    again = await world.answered(other, replace(request, retry=True))
    assert (again.status, again.session_id, again.joined) == (TurnStatus.COMPLETED, turn.session_id, False)
    assert (await world.answered(other, request)).id == again.id


async def test_a_turn_that_is_followed_through_another_process_outlives_an_outage_at_its_owner(world: World) -> None:
    wire, url = await world.wire()
    owner, other = await world.program(url, abandon_grace=timedelta(seconds=1)), await world.program()
    request = await in_a_session(world, owner)
    stopped, its_exchange = await asked(world, owner, asks(SLOW))
    first, _ = await asked(world, owner, request)
    second = await joined(world, other, request)
    wire.go_down()
    await leave(first, Departure.UNCLEAR)
    # By the time that this one is stopped, the grace of the other one is over; nobody can know yet who follows it.
    await leave(stopped, Departure.STOPPED)
    await its_exchange.gone.wait()
    wire.come_up()
    world.steps.release(20)
    assert (await second).status is TurnStatus.COMPLETED
    assert await world.turns() == 3


async def test_a_turn_is_given_up_when_the_last_caller_elsewhere_has_left_or_died(world: World) -> None:
    owner, other = await world.program(abandon_grace=NOW), await world.program()
    request = await in_a_session(world, owner)
    first, exchange = await asked(world, owner, request)
    second = await joined(world, other, request)
    await leave(first, Departure.UNCLEAR)
    await leave(second, Departure.UNCLEAR)
    assert await given_up(world, exchange) == 1


async def test_a_caller_who_leaves_takes_nothing_from_one_who_waits_through_another_process(world: World) -> None:
    owner, other = await world.program(abandon_grace=NOW), await world.program()
    request = await in_a_session(world, owner)
    first, _ = await asked(world, owner, request)
    second = await joined(world, other, request)
    # Its departure is noted after the last word of the one who waits, and before the next.
    await leave(first, Departure.UNCLEAR)
    await grace_over(world, owner)
    world.steps.release(20)
    assert (await second).status is TurnStatus.COMPLETED
    assert await world.turns() == 3  # and no other answered it


async def test_a_turn_is_given_up_when_the_process_of_its_last_caller_has_died(world: World) -> None:
    wire, url = await world.wire()
    owner, other = await world.program(abandon_grace=timedelta(seconds=2)), await world.program(url)
    request = await in_a_session(world, owner)
    first, exchange = await asked(world, owner, request)
    second = await joined(world, other, request)
    await leave(first, Departure.UNCLEAR)
    await world.until("caller_gone_at < followed_at OR ended_at IS NOT NULL")
    wire.go_down()
    # As if that were an hour ago.
    await world.owner.execute(
        "UPDATE agentapi.turns SET caller_gone_at = caller_gone_at - interval '1 hour', "
        "followed_at = followed_at - interval '1 hour' WHERE status = 'running'"
    )
    assert await given_up(world, exchange) == 1
    with pytest.raises(StoreUnavailableError):
        await second


async def test_one_who_leaves_through_another_process_takes_nothing_from_a_caller_here(world: World) -> None:
    owner, other = await world.program(abandon_grace=NOW), await world.program()
    request, stopped = await in_a_session(world, owner), await in_a_session(world, owner)
    first, _ = await asked(world, owner, request)
    await leave(await joined(world, other, request), Departure.STOPPED)
    # By the time that this one is stopped, the one before would have been.
    third, its_exchange = await asked(world, owner, stopped)
    fourth = await joined(world, other, stopped)
    await leave(third, Departure.UNCLEAR)
    await leave(fourth, Departure.STOPPED)
    await its_exchange.gone.wait()
    world.steps.release(20)
    assert (await first).status is TurnStatus.COMPLETED


async def test_one_of_two_who_wait_through_another_process_leaves_and_takes_nothing_from_the_other(
    world: World,
) -> None:
    owner, other = await world.program(abandon_grace=NOW), await world.program()
    request = await in_a_session(world, owner)
    first, _ = await asked(world, owner, request)
    second, third = await joined(world, other, request), await joined(world, other, request)
    await leave(first, Departure.UNCLEAR)
    await leave(second, Departure.UNCLEAR)
    await grace_over(world, owner)
    world.steps.release(20)
    assert (await third).status is TurnStatus.COMPLETED
    assert await world.turns() == 3


async def test_who_starts_a_turn_that_runs_in_another_process_is_expected_back(world: World) -> None:
    owner, other = await world.program(abandon_grace=NOW), await world.program()
    request = await in_a_session(world, owner)
    first, _ = await asked(world, owner, request)
    started = await other.turns.start(other.principal, request)
    await world.until("answered_running_at IS NOT NULL")
    assert not first.done()  # whose own answer would say so, too
    await leave(first, Departure.UNCLEAR)
    await grace_over(world, owner)
    world.steps.release(20)
    ended = await other.turns.get(other.principal, str(started.id), wait=LONG)
    assert (started.joined, ended.status) == (True, TurnStatus.COMPLETED)


async def test_a_turn_runs_on_for_a_caller_who_timed_out_through_another_process(world: World) -> None:
    owner, other = await world.program(abandon_grace=NOW), await world.program()
    request = await in_a_session(world, owner)
    first, _ = await asked(world, owner, request)
    second = await joined(world, other, request)
    await leave(first, Departure.TIMED_OUT)
    await leave(second, Departure.TIMED_OUT)
    await grace_over(world, owner)
    world.steps.release(20)
    assert (await world.answered(other, request)).status is TurnStatus.COMPLETED


async def test_a_turn_that_a_caller_elsewhere_was_told_to_be_running_is_not_given_up(world: World) -> None:
    owner, other = await world.program(abandon_grace=NOW), await world.program()
    request = await in_a_session(world, owner)
    first, _ = await asked(world, owner, request)
    told = await other.turns.chat(other.principal, request, wait=NOW)
    assert (told.status, told.joined) == (TurnStatus.RUNNING, True)
    await world.until("answered_running_at IS NOT NULL")
    await leave(first, Departure.UNCLEAR)
    await grace_over(world, owner)
    world.steps.release(20)
    assert (await other.turns.get(other.principal, str(told.id), wait=LONG)).status is TurnStatus.COMPLETED


async def test_stop_takes_nothing_from_one_who_waits_elsewhere_though_the_store_is_far_away(world: World) -> None:
    wire, url = await world.wire()
    grace = timedelta(seconds=4)
    owner, other = await world.program(url, stopped_grace=grace, abandon_grace=grace), await world.program()
    request = await in_a_session(world, owner)
    first, _ = await asked(world, owner, request)
    second = await joined(world, other, request)
    wire.delay = 0.15  # a look takes longer than what Stop waits for it in the end
    await leave(first, Departure.STOPPED)
    # By the time that this one is stopped, the one before would have been.
    unclear, its_exchange = await asked(world, owner, asks(SLOW))
    await leave(unclear, Departure.UNCLEAR)
    await its_exchange.gone.wait()
    wire.delay = 0.0
    world.steps.release(20)
    assert (await second).status is TurnStatus.COMPLETED
    assert await world.turns() == 3


async def test_stop_does_not_wait_for_a_store_that_hangs(world: World) -> None:
    owner = await world.program()
    asking, exchange = await asked(world, owner, asks(SLOW))
    async with world.owner.transaction():
        await world.owner.execute("LOCK agentapi.turns")
        await leave(asking, Departure.STOPPED)
        await exchange.gone.wait()
    assert await given_up(world, exchange) == 1
