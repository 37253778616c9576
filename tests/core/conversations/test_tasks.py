"""Calls that are answered later: in any process, to their own caller alone, and until they expire."""

from dataclasses import replace

import pytest

from agentapi_mcp.base.errors import NotFoundError, StoreError
from agentapi_mcp.base.ids import TaskId
from agentapi_mcp.core.conversations.models import EndReason, Sent, TurnStatus
from agentapi_mcp.core.conversations.tasks import LIFETIME
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Database
from tests.support.members import new_member
from tests.support.worlds import LONG, NOW, SLOW, World, asks

SENT = Sent(has_key=False, in_session=False)


async def test_a_task_is_its_turn_in_every_process(world: World) -> None:
    here, there = await world.program(), await world.program()
    turn = await here.turns.chat(here.principal, asks(SLOW), wait=NOW)
    task = await here.tasks.create(here.principal, turn, SENT)
    assert task.expires_at - task.created_at == LIFETIME
    for server in (here, there):
        found = await server.tasks.get(server.principal, task.id)
        assert found.turn.status is TurnStatus.RUNNING
        assert (found.created_at, found.expires_at) == (task.created_at, task.expires_at)
    world.steps.release(20)
    await here.turns.get(here.principal, str(turn.id), wait=LONG)
    ended = await there.turns.get(there.principal, str(turn.id))
    assert ended.status is TurnStatus.COMPLETED
    for server in (here, there):
        assert (await server.tasks.get(server.principal, task.id)).turn == ended


async def test_a_task_that_joined_a_turn_says_so_and_how_it_was_sent(world: World) -> None:
    server, sent = await world.program(), Sent(has_key=True, in_session=True)
    turn = await server.turns.chat(server.principal, asks(), wait=LONG)
    task = await server.tasks.create(server.principal, replace(turn, joined=True), sent)
    found = await server.tasks.get(server.principal, task.id)
    assert found.turn.joined
    assert found.sent == sent


async def test_a_turn_that_several_tasks_wait_for_is_read_once(world: World) -> None:
    server = await world.program()
    turns = [await server.turns.chat(server.principal, asks(), wait=LONG) for _ in range(2)]
    ids = [(await server.tasks.create(server.principal, turn, SENT)).id for turn in turns for _ in range(3)]
    found = {task.id: task.turn for task in await server.tasks.list_(server.principal, ids)}
    assert [found[id_].id for id_ in ids] == [turn.id for turn in turns for _ in range(3)]
    assert len({id(turn.reply) for turn in found.values()}) == 2


async def test_ids_are_unguessable_and_never_the_same(world: World) -> None:
    server = await world.program()
    turn = await server.turns.chat(server.principal, asks(), wait=LONG)
    ids = {(await server.tasks.create(server.principal, turn, SENT)).id for _ in range(20)}
    assert len(ids) == 20
    assert {len(id_) * 6 for id_ in ids} == {192}  # bits
    assert len({id_[:4] for id_ in ids}) == 20


@pytest.mark.parametrize("told", ["", "x", "ä" * 32, "a\0" * 16, "A" * 32])
async def test_what_is_no_id_of_a_task_finds_none(told: str, world: World) -> None:
    server = await world.program()
    with pytest.raises(NotFoundError):
        await server.tasks.get(server.principal, told)
    with pytest.raises(NotFoundError):
        await server.tasks.cancel(server.principal, told)
    assert await server.tasks.list_(server.principal, [told]) == ()


async def test_a_task_is_there_for_its_own_caller_alone(world: World, database: Database) -> None:
    server = await world.program()
    ann = await new_member(database)
    turn = await server.turns.chat(ann, replace(asks(), agent="guide"), wait=LONG)
    task = await server.tasks.create(ann, turn, SENT)
    colleague, other = await new_member(database, of=ann), await new_member(database)
    elsewhere = Principal(ann.user_id, other.org_id)
    for stranger in (colleague, other, elsewhere):
        with pytest.raises(NotFoundError, match="no such task"):
            await server.tasks.get(stranger, task.id)
        with pytest.raises(NotFoundError):
            await server.tasks.cancel(stranger, task.id)
        with pytest.raises(NotFoundError):
            await server.tasks.conclude(stranger, task.id, "forged")
        with pytest.raises(StoreError):
            await server.tasks.create(stranger, turn, SENT)
        assert await server.tasks.list_(stranger, [task.id]) == ()
    assert await server.tasks.list_(ann, [task.id, task.id]) == (await server.tasks.get(ann, task.id),)


async def test_an_expired_task_is_gone_before_it_is_deleted(world: World) -> None:
    server = await world.program()
    turn = await server.turns.chat(server.principal, asks(), wait=LONG)
    task = await server.tasks.create(server.principal, turn, SENT)
    await world.owner.execute("UPDATE agentapi.tasks SET expires_at = now() - interval '1 s' WHERE id = $1", task.id)
    with pytest.raises(NotFoundError):
        await server.tasks.get(server.principal, task.id)


async def test_cancelling_a_task_cancels_its_turn_wherever_it_runs(world: World) -> None:
    here, there = await world.program(), await world.program()
    turn = await here.turns.chat(here.principal, asks(SLOW), wait=NOW)
    task = await here.tasks.create(here.principal, turn, SENT)
    await there.tasks.cancel(there.principal, task.id)
    ended = (await here.tasks.get(here.principal, task.id)).turn
    assert (ended.status, ended.end_reason) == (TurnStatus.CANCELLED, EndReason.CANCEL_TURN)
    again = await there.tasks.cancel(there.principal, task.id)  # one that has ended stays as it is
    assert again.turn.ended_at == ended.ended_at


async def test_a_call_that_was_answered_before_its_turn_ended_keeps_its_first_answer(world: World) -> None:
    server = await world.program()
    turn = await server.turns.chat(server.principal, asks(SLOW), wait=NOW)
    task = await server.tasks.create(server.principal, turn, SENT)
    first = await server.tasks.conclude(server.principal, task.id, "first")
    second = await server.tasks.conclude(server.principal, task.id, "second")
    assert first.concluded_at is not None
    assert (second.result, second.concluded_at) == ("first", first.concluded_at)
    await server.tasks.cancel(server.principal, task.id)  # the call is over, and the turn goes on
    assert (await server.turns.get(server.principal, str(turn.id))).status is TurnStatus.RUNNING
    world.steps.release(20)
    await server.turns.get(server.principal, str(turn.id), wait=LONG)
    assert (await server.tasks.get(server.principal, TaskId(task.id))).result == "first"


async def test_a_task_ends_with_its_session(world: World) -> None:
    server = await world.program()
    turn = await server.turns.chat(server.principal, asks(), wait=LONG)
    task = await server.tasks.create(server.principal, turn, SENT)
    await server.sessions.delete(server.principal, str(turn.session_id))
    with pytest.raises(NotFoundError):
        await server.tasks.get(server.principal, task.id)
