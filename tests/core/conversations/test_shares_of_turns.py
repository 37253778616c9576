"""Shares of running turns: counted in the database where a turn is accepted, for all processes together."""

import asyncio
import json

import pytest

from agentapi_mcp.base.errors import LimitExceededError
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.services import Services
from tests.support.worlds import LONG, SLOW, World, asks

TURNS_OF_8 = 7  # seven eighths


async def starts(server: Services, request: ChatRequest) -> Turn | LimitExceededError:
    """Begin a turn, or return why not."""
    try:
        return await server.turns.start(server.principal, request)
    except LimitExceededError as exc:
        return exc


async def limits(world: World, **limits: object) -> None:
    """Set the limits of all organisations."""
    await world.owner.execute(
        "UPDATE public.organizations SET settings = jsonb_build_object('limits', $1::text::jsonb)", json.dumps(limits)
    )


async def test_a_user_has_no_more_turns_in_all_processes_than_the_share_of_one(world: World) -> None:
    servers = [await world.program(capacities={Resource.RUNNING_TURNS: 8}) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(starts(server, asks(SLOW))) for _ in range(10) for server in servers]
    begun = [task.result() for task in tasks if isinstance(task.result(), Turn)]
    refused = [str(task.result()) for task in tasks if isinstance(task.result(), LimitExceededError)]
    assert (len(begun), len(refused), await world.turns()) == (TURNS_OF_8, 13, TURNS_OF_8)
    assert any("You have 7 of 7 running turns in all processes; wait until one has ended" in text for text in refused)
    world.steps.release(100)


async def test_the_bytes_of_a_users_running_messages_have_a_share(world: World) -> None:
    one, two = [await world.program(capacities={Resource.RUNNING_BYTES: 1600}) for _ in range(2)]
    long = "x" * 900
    assert isinstance(await starts(one, asks(f"{long} {SLOW}")), Turn)
    with pytest.raises(LimitExceededError, match=r"You have 9\d\d of 1,400 bytes of messages of running turns"):
        await two.turns.start(two.principal, asks(f"{long} {SLOW}"))
    assert isinstance(await starts(two, asks(SLOW)), Turn)
    world.steps.release(100)


async def test_what_runs_already_is_found_by_who_may_begin_nothing_more(world: World) -> None:
    server = await world.program(capacities={Resource.RUNNING_TURNS: 8})
    first, keyed = asks(SLOW), asks(SLOW, idempotency_key="k")
    begun = [await starts(server, request) for request in (first, keyed, *(asks(SLOW) for _ in range(5)))]
    assert all(isinstance(each, Turn) for each in begun)
    with pytest.raises(LimitExceededError, match=r"Your share of this server's running turns is used up \(7 of 8\)"):
        await server.turns.start(server.principal, asks())
    assert [each.id for each in [await server.turns.start(server.principal, it) for it in (first, keyed)]] == [
        each.id for each in begun[:2] if isinstance(each, Turn)
    ]
    world.steps.release(100)
    for each in begun:
        assert isinstance(each, Turn)
        ended = await server.turns.get(server.principal, str(each.id), wait=LONG)
        assert ended.status is TurnStatus.COMPLETED
    assert (await server.turns.chat(server.principal, asks(), wait=LONG)).status is TurnStatus.COMPLETED


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_running_turns": 2}, "2 of 2 running turns"),
        ({"max_running_bytes": 150}, r"\d\d\d? of 150 bytes of messages"),
        (
            {"max_conversations": 2},
            r"2 of 2 conversations that it may have; delete some, or ask the operator",
        ),
    ],
)
async def test_an_organisation_bounds_itself(limit: dict[str, int], words: str, world: World) -> None:
    server = await world.program()
    await limits(world, **limit)
    for _ in range(2):
        assert isinstance(await starts(server, asks(SLOW)), Turn)
    with pytest.raises(LimitExceededError, match=f"Your organisation has {words}"):
        await server.turns.start(server.principal, asks(SLOW))
    assert await world.turns() == 2
    world.steps.release(100)


async def test_a_conversation_that_is_there_goes_on_at_the_limit_of_conversations(world: World) -> None:
    server = await world.program()
    await limits(world, max_conversations=1)
    first = await world.answered(server, asks())
    again = await world.answered(server, asks(session_id=str(first.session_id)))
    assert again.status is TurnStatus.COMPLETED


@pytest.mark.parametrize("limit", ["many", None, {}, [1], True])
async def test_what_is_no_number_limits_nothing(limit: object, world: World) -> None:
    server = await world.program()
    await limits(world, max_running_turns=limit, max_conversations=limit)
    assert (await world.answered(server, asks())).status is TurnStatus.COMPLETED


@pytest.mark.parametrize("written", ["two", [], [1], True, 7, {}, None])
async def test_limits_that_are_no_object_limit_nothing(written: object, world: World) -> None:
    server = await world.program()
    await world.owner.execute(
        "UPDATE public.organizations SET settings = jsonb_build_object('limits', $1::text::jsonb)", json.dumps(written)
    )
    assert (await world.answered(server, asks())).status is TurnStatus.COMPLETED


@pytest.mark.parametrize("name", ["max_conversations", "max_running_turns"])
@pytest.mark.parametrize(
    ("limit", "allows"), [("0", 0), ("-1", 0), ("-0.5", 0), ("1.5", 1), ("-1e5000", 0), (f"-1{'0' * 5000}", 0)]
)
async def test_a_number_below_zero_allows_nothing_and_a_fraction_what_is_whole(
    name: str, limit: str, allows: int, world: World
) -> None:
    server = await world.program()
    await world.owner.execute(
        "UPDATE public.organizations "
        "SET settings = jsonb_build_object('limits', jsonb_build_object($1::text, $2::text::jsonb))",
        name,
        limit,
    )
    for _ in range(allows):
        assert isinstance(await starts(server, asks(SLOW)), Turn)
    with pytest.raises(LimitExceededError, match=f"Your organisation has {allows} of {allows} "):
        await server.turns.start(server.principal, asks(SLOW))
    world.steps.release(100)
