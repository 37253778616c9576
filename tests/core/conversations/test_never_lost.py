"""Answers are kept, and asked for once, whatever happens to the database, the wire to it, and other processes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentapi_mcp.app import build
from agentapi_mcp.base.errors import (
    ConflictError,
    InvalidRequestError,
    LimitExceededError,
    StoreUnavailableError,
    StoreUnclearError,
)
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.core.conversations.models import EndReason, Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.server.owner_locks import HomeOwnerLocks
from tests.support.signals import listening
from tests.support.wires import Break
from tests.support.worlds import LONG, LONG_LEASE, NOW, SHORT_LEASE, SLOW, World, asks, begun

# --- outages


async def test_an_answer_that_ended_while_the_database_was_away_is_written_when_it_is_back(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url, lease=SHORT_LEASE)
    other_wire, other_url = await world.wire()
    other = await world.program(other_url, lease=LONG_LEASE)
    async with begun(server, asks(SLOW)) as asking:
        await world.peer.received(path="/api/v1/chat/completions")
        for each in (wire, other_wire):
            each.go_down()
        world.steps.release(20)
        told = await asking
    assert (told.status, told.saved) == (TurnStatus.COMPLETED, False)
    assert await server.turns.get(server.principal, str(told.id)) == told
    await world.until("lease_until < clock_timestamp() AND status = 'running'")
    # The other process is back first, and looks after all turns before their owner can renew its lease.
    other_wire.come_up()
    assert (await other.turns.get(other.principal, str(told.id))).status is TurnStatus.RUNNING
    wire.come_up()
    kept = await other.turns.get(other.principal, str(told.id), wait=LONG)
    assert (kept.status, kept.reply, kept.saved) == (TurnStatus.COMPLETED, told.reply, True)


async def test_the_owner_that_reads_its_own_turn_after_an_outage_does_not_settle_it(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url, lease=SHORT_LEASE)
    running = await server.turns.chat(server.principal, asks(SLOW), wait=NOW)
    await world.peer.received(path="/api/v1/chat/completions")
    wire.go_down()
    await world.until("lease_until < clock_timestamp() AND status = 'running'")
    wire.come_up()
    assert (await server.turns.get(server.principal, str(running.id))).status is TurnStatus.RUNNING
    world.steps.release(20)
    ended = await server.turns.get(server.principal, str(running.id), wait=LONG)
    assert (ended.status, ended.saved) == (TurnStatus.COMPLETED, True)


async def test_a_turn_that_somebody_else_has_settled_is_told_as_it_is_stored(world: World) -> None:
    server = await world.program(lease=LONG_LEASE, renew_every=timedelta(minutes=5))
    async with begun(server, asks(SLOW)) as asking:
        await world.peer.received(path="/api/v1/chat/completions")
        await world.owner.execute(
            "UPDATE agentapi.turns SET status = 'interrupted', end_reason = 'lease_expired', lease_owner = NULL, "
            "lease_until = NULL, ended_at = clock_timestamp()"
        )
        world.steps.release(20)
        told = await asking
    assert (told.status, told.reply, told.saved) == (TurnStatus.INTERRUPTED, "", True)


async def test_an_owner_that_lost_its_lease_stops_the_turn(world: World) -> None:
    server = await world.program(lease=LONG_LEASE)
    async with begun(server, asks(SLOW)) as asking:
        exchange = await world.peer.received(path="/api/v1/chat/completions")
        await world.owner.execute(
            "UPDATE agentapi.turns SET status = 'interrupted', end_reason = 'lease_expired', lease_owner = NULL, "
            "lease_until = NULL, ended_at = clock_timestamp()"
        )
        await exchange.gone.wait()
        assert (await asking).status is TurnStatus.INTERRUPTED


# --- acknowledgements that are lost


@pytest.mark.parametrize("how", [Break.BEFORE, Break.AFTER])
@pytest.mark.parametrize("statement", ["begin_turn_2", "end_turn_2"])
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_lost_acknowledgement_costs_neither_the_turn_nor_a_second_one(
    how: Break, statement: str, key: str | None, world: World
) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    wire.break_at(statement, how)
    told = await server.turns.chat(server.principal, asks(idempotency_key=key), wait=LONG)
    assert wire.broken == 1
    assert (told.status, told.saved) == (TurnStatus.COMPLETED, True)
    assert await world.turns() == 1
    assert len(world.peer.exchanges) == 1
    stored = await server.turns.get(server.principal, str(told.id))
    assert (stored.status, stored.reply) == (TurnStatus.COMPLETED, told.reply)
    actions = await world.owner.fetch("SELECT action FROM agentapi.audit_events WHERE target_kind = 'turn' ORDER BY at")
    assert [row["action"] for row in actions] == ["turn_accepted", "turn_ended"]


async def test_a_provider_is_not_asked_before_it_is_clear_that_the_turn_stands(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    wire.break_at("begin_turn_2", Break.BEFORE)
    async with begun(server, asks(SLOW)) as asking:
        await world.peer.received(path="/api/v1/chat/completions")
        assert await world.owner.fetchval("SELECT asked_at IS NOT NULL AND asked_at > created_at FROM agentapi.turns")
        world.steps.release(20)
        assert (await asking).status is TurnStatus.COMPLETED


@pytest.mark.parametrize("waits", [False, True])
async def test_a_call_is_bounded_while_the_database_is_silent_and_says_what_is_not_known(
    *, waits: bool, world: World
) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    request = asks(idempotency_key="k")
    wire.break_at("begin_turn_2", Break.SILENT)
    turns, principal = server.turns, server.principal
    with pytest.raises(StoreUnclearError, match="it is not known whether the message was accepted") as raised:
        await (turns.chat(principal, request, wait=NOW) if waits else turns.start(principal, request))
    turn = await server.turns.chat(server.principal, request, wait=LONG)
    assert str(turn.id) in str(raised.value)
    assert turn.joined
    assert len(world.peer.exchanges) == 1


async def test_a_list_of_turns_is_bounded_while_the_database_is_silent(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    wire.break_at("t.user_id = $1 AND t.org_id = $2", Break.SILENT)
    async with asyncio.timeout(25):  # less than the 30 s after which a statement is given up
        with pytest.raises(StoreUnavailableError, match="The database does not answer in time"):
            await server.turns.recent(server.principal, 10)
    assert wire.broken == 1


# --- saved first, told after


@asynccontextmanager
async def locked_sessions(world: World) -> AsyncGenerator[None]:
    """Keep the rows of all sessions locked."""
    async with world.owner.transaction():
        await world.owner.execute("SELECT FROM public.chat_sessions FOR UPDATE")
        yield


async def test_an_answer_is_told_once_it_is_stored(world: World) -> None:
    server = await world.program()
    running = await server.turns.chat(server.principal, asks(SLOW), wait=NOW)
    await world.peer.received(path="/api/v1/chat/completions")
    async with locked_sessions(world):
        world.steps.release(20)
        waiting = await server.turns.get(server.principal, str(running.id), wait=timedelta(seconds=1))
        assert (waiting.status, waiting.saved) == (TurnStatus.RUNNING, True)
        assert (await server.turns.get(server.principal, str(running.id), wait=NOW)).status is TurnStatus.RUNNING
    told = await server.turns.get(server.principal, str(running.id), wait=LONG)
    assert (told.status, told.saved) == (TurnStatus.COMPLETED, True)


async def test_new_messages_are_refused_while_answers_wait_to_be_written(world: World) -> None:
    # One place: of two answers, one is being written, and the other one waits for its turn.
    server = await world.program(refuse_when_behind=NOW, places=1, places_to_finish=0)
    both = [await server.turns.chat(server.principal, asks(SLOW), wait=NOW) for _ in range(2)]
    await world.peer.received(2, path="/api/v1/chat/completions")
    async with locked_sessions(world):
        ends = [asyncio.ensure_future(finished(server, running)) for running in both]
        await world.turns()
        world.steps.release(20)
        await asyncio.wait(ends)
        await somebody_waits(world)
        with pytest.raises(LimitExceededError, match="Answers wait to be written"):
            await server.turns.chat(server.principal, asks(), wait=LONG)
    for running in both:
        await server.turns.get(server.principal, str(running.id), wait=LONG)
    assert (await server.turns.chat(server.principal, asks(), wait=LONG)).status is TurnStatus.COMPLETED


async def test_an_answer_whose_session_is_locked_keeps_no_other_message_waiting(world: World) -> None:
    server = await world.program(refuse_when_behind=NOW)
    running = await server.turns.chat(server.principal, asks(SLOW), wait=NOW)
    await world.peer.received(path="/api/v1/chat/completions")
    async with world.owner.transaction():
        await world.owner.execute("SELECT FROM public.chat_sessions WHERE id = $1 FOR UPDATE", running.session_id)
        world.steps.release(20)
        await somebody_waits(world)
        assert (await world.answered(server, asks())).status is TurnStatus.COMPLETED
    kept = await server.turns.get(server.principal, str(running.id), wait=LONG)
    assert (kept.status, kept.saved) == (TurnStatus.COMPLETED, True)


async def finished(server: Services, turn: Turn) -> None:
    """Wait until the last piece of an answer has come."""
    async for event in server.turns.follow(server.principal, turn):
        if type(event).__name__ == "Finished":
            break


async def test_a_locked_session_keeps_nobody_else_waiting(world: World) -> None:
    server = await world.program(places=3, places_to_finish=1, places_of_a_user=2)
    first = await server.turns.chat(server.principal, asks(), wait=LONG)
    async with locked_sessions(world), asyncio.TaskGroup() as group:
        stuck = [
            group.create_task(server.turns.start(server.principal, asks(session_id=str(first.session_id))))
            for _ in range(4)
        ]
        other = await server.turns.chat(server.principal, asks(), wait=LONG)
        assert other.status is TurnStatus.COMPLETED
        assert not all(task.done() for task in stuck)
        for task in stuck:
            task.cancel()


# --- turns that nobody runs


async def an_orphan(world: World, server: Services, request: ChatRequest, *, asked: bool) -> Turn:
    """Leave a turn as a process leaves it that dies: nobody renews its lease."""
    done = await server.turns.chat(server.principal, request, wait=LONG)
    await world.owner.execute(
        "UPDATE agentapi.turns SET status = 'running', lease_owner = gen_random_uuid(), lease_until = now(), "
        "ended_at = NULL, end_reason = NULL, delivered_at = NULL, assistant_message_id = NULL, partial_text = 'so f', "
        "asked_at = CASE WHEN $2 THEN clock_timestamp() END WHERE id = $1",
        done.id,
        asked,
    )
    await world.owner.execute("DELETE FROM public.chat_messages WHERE role = 'assistant'")
    return done


async def test_a_turn_whose_process_died_is_settled_although_nobody_asks_for_it(world: World) -> None:
    server = await world.program(lease=SHORT_LEASE)
    turn = await an_orphan(world, server, asks(), asked=True)
    await world.until("status = 'interrupted' AND end_reason = 'lease_expired'")
    read = await server.turns.get(server.principal, str(turn.id))
    assert (read.status, read.end_reason, read.reply) == (TurnStatus.INTERRUPTED, EndReason.LEASE_EXPIRED, "so f")


async def test_a_turn_whose_process_died_on_this_machine_is_settled_before_its_lease_is_over(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "owners"

    def owner_locks(*_: object) -> HomeOwnerLocks:
        return HomeOwnerLocks(folder)

    monkeypatch.setattr(build, "_owner_locks", owner_locks)
    server = await world.program(lease=LONG_LEASE)
    killed, on_another_machine = [await an_orphan(world, server, asks(), asked=True) for _ in range(2)]
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    async with begun(server, asks(SLOW)) as asking, listening(world.urls.app) as signals:
        await world.peer.received(3, path="/api/v1/chat/completions")
        signals.subscribe(heard.put_nowait)
        await world.owner.execute("UPDATE agentapi.turns SET lease_until = clock_timestamp() + interval '1 hour'")
        owner = await world.owner.fetchval("SELECT lease_owner FROM agentapi.turns WHERE id = $1", killed.id)
        (folder / f"{owner}.lock").touch()  # and no process holds it
        # The ends of those before may still be on their way.
        while ((told := await heard.get()).kind, told.turn_id) != (SignalKind.ENDED, killed.id):
            pass
        await world.until("id = $1 AND status = 'interrupted' AND end_reason = 'lease_expired'", killed.id)
        assert told.session_id == killed.session_id
        world.steps.release(20)
        assert (await asking).status is TurnStatus.COMPLETED
    assert not (await server.turns.get(server.principal, str(on_another_machine.id))).status.is_final


async def test_nobody_settles_before_having_had_the_database_for_a_lease(world: World) -> None:
    server = await world.program(lease=LONG_LEASE)
    request = asks(idempotency_key="k")
    turn = await an_orphan(world, server, request, asked=False)
    assert (await server.turns.get(server.principal, str(turn.id), wait=timedelta(seconds=1))).status.is_final is False
    joined = await server.turns.chat(server.principal, request, wait=timedelta(seconds=1))
    assert (joined.id, joined.status) == (turn.id, TurnStatus.RUNNING)
    with pytest.raises(ConflictError, match="answering another message"):
        await server.turns.chat(server.principal, asks(session_id=str(turn.session_id)), wait=NOW)


async def test_a_request_settles_the_turn_that_it_waits_for_and_no_other(world: World) -> None:
    server = await world.program(lease=SHORT_LEASE, renew_every=timedelta(days=1))  # the sweep does not come by
    request = asks()
    own = await an_orphan(world, server, request, asked=False)
    other = await an_orphan(world, server, asks(), asked=False)
    while (turn := await server.turns.chat(server.principal, request, wait=NOW)).id == own.id:
        pass  # it joins until the process has had the database for a lease
    assert (await server.turns.get(server.principal, str(own.id))).status is TurnStatus.INTERRUPTED
    assert (await server.turns.get(server.principal, str(other.id))).status is TurnStatus.RUNNING
    assert (await server.turns.get(server.principal, str(turn.id), wait=LONG)).status is TurnStatus.COMPLETED


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_turn_that_was_interrupted_before_it_was_asked_is_asked_by_its_own_retry(
    key: str | None, world: World
) -> None:
    server = await world.program(lease=SHORT_LEASE)
    request = asks(idempotency_key=key)
    lost = await an_orphan(world, server, request, asked=False)
    await world.until("status = 'interrupted'")
    again = await server.turns.chat(server.principal, request, wait=LONG)
    assert (again.status, again.session_id, again.joined) == (TurnStatus.COMPLETED, lost.session_id, False)
    assert again.id != lost.id
    said = await world.owner.fetch("SELECT content FROM public.chat_messages ORDER BY created_at")
    assert [row["content"] for row in said] == [request.message, "so f", again.reply]


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_turn_that_was_interrupted_after_it_was_asked_is_asked_again_knowingly(
    key: str | None, world: World
) -> None:
    server = await world.program(lease=SHORT_LEASE)
    request = asks(idempotency_key=key)
    lost = await an_orphan(world, server, request, asked=True)
    await world.until("status = 'interrupted'")
    for _ in range(2):  # also once its caller is known to have been told of it
        told = await world.answered(server, request)
        await world.until("delivered_at IS NOT NULL")
        assert (told.id, told.status, told.joined) == (lost.id, TurnStatus.INTERRUPTED, True)
    assert len(world.peer.exchanges) == 1
    retry = replace(request, retry=True)
    again = await world.answered(server, retry)
    assert (again.status, again.session_id, len(world.peer.exchanges)) == (TurnStatus.COMPLETED, lost.session_id, 2)
    # The retry itself may be sent again, by a proxy for example, before or after its answer has arrived.
    repeated = await world.answered(server, retry)
    assert (repeated.id, repeated.joined, len(world.peer.exchanges)) == (again.id, True, 2)
    await world.until("delivered_at IS NOT NULL AND id = $1", again.id)
    assert (await server.turns.chat(server.principal, retry, wait=LONG)).id == again.id
    if key is not None:
        same = await server.turns.chat(server.principal, request, wait=LONG)
        assert (same.id, same.reply, len(world.peer.exchanges)) == (again.id, again.reply, 2)


async def interrupted(world: World, server: Services, request: ChatRequest, *, asked: bool) -> Turn:
    """Leave a turn of its own as a process leaves it that dies, and wait until it is settled."""
    lost = await an_orphan(world, server, replace(request, new=True), asked=asked)
    await world.until("status = 'interrupted' AND id = $1", lost.id)
    return lost


@pytest.mark.parametrize("asked", [False, True])
async def test_of_several_interrupted_turns_of_a_message_one_is_asked_again(*, asked: bool, world: World) -> None:
    server = await world.program(lease=SHORT_LEASE)
    request = asks()
    both = {(await interrupted(world, server, request, asked=asked)).session_id for _ in range(2)}
    again = await world.answered(server, replace(request, retry=asked))
    assert (again.status, again.joined, again.session_id in both) == (TurnStatus.COMPLETED, False, True)
    assert len(world.peer.exchanges) == 3


async def test_a_retry_asks_again_also_where_the_same_message_was_answered_before(world: World) -> None:
    server = await world.program(lease=SHORT_LEASE)
    request = asks()
    await world.answered(server, request)
    await world.until("delivered_at IS NOT NULL")
    lost = await interrupted(world, server, request, asked=True)
    again = await world.answered(server, replace(request, retry=True))
    assert (again.status, again.session_id) == (TurnStatus.COMPLETED, lost.session_id)


async def test_a_retry_that_is_repeated_gets_its_turn_though_others_of_its_message_were_interrupted(
    world: World,
) -> None:
    server = await world.program()
    request = asks()
    await interrupted(world, server, request, asked=True)
    await interrupted(world, server, replace(request, new=True), asked=True)
    await world.owner.execute("UPDATE agentapi.turns SET answered_running_at = clock_timestamp(), followed_at = NULL")
    retry = replace(request, retry=True)
    again = await world.answered(server, retry)
    await world.until("delivered_at IS NOT NULL AND id = $1", again.id)
    repeated = await world.answered(server, retry)
    assert (repeated.id, repeated.joined) == (again.id, True)


async def test_the_next_message_waits_for_an_answer_that_outlasted_its_lease_in_an_outage(world: World) -> None:
    wire, url = await world.wire()
    pause = timedelta(seconds=1)  # in which the next message comes first
    server = await world.program(url, lease=SHORT_LEASE, renew_again=pause, save_again=pause)
    session = str((await world.answered(server, asks())).session_id)
    async with begun(server, asks(SLOW, session_id=session)) as asking:
        await world.peer.received(2, path="/api/v1/chat/completions")
        wire.go_down()
        world.steps.release(20)
        assert (await asking).saved is False
    await world.until("lease_until < clock_timestamp() AND status = 'running'")
    wire.come_up()
    following = await server.turns.chat(server.principal, asks(session_id=session), wait=LONG)
    assert following.status is TurnStatus.COMPLETED


async def test_the_session_of_a_turn_whose_process_died_goes_on(world: World) -> None:
    server = await world.program(lease=SHORT_LEASE)
    lost = await an_orphan(world, server, asks(), asked=True)
    await world.until("status = 'interrupted'")
    following = await server.turns.chat(server.principal, asks(session_id=str(lost.session_id)), wait=LONG)
    assert following.status is TurnStatus.COMPLETED


# --- the same message without a key


async def aged(world: World, seconds: float) -> None:
    """Let all turns have begun some time before."""
    await world.owner.execute("UPDATE agentapi.turns SET created_at = created_at - make_interval(secs => $1)", seconds)


async def test_a_retry_at_once_joins_a_turn_that_is_a_second_old_on_any_replica(world: World) -> None:
    one, two = await world.program(), await world.program()
    request = asks(SLOW)
    async with begun(one, request) as first:
        await world.peer.received(path="/api/v1/chat/completions")
        await aged(world, 1)
        async with begun(one, request) as second:
            await world.until("followed_at IS NOT NULL")
            joined_at = await world.owner.fetchval("SELECT followed_at FROM agentapi.turns")
            async with begun(two, request) as third:
                await world.until("followed_at > $1", joined_at)
                world.steps.release(20)
                told = [await task for task in (first, second, third)]
    assert [turn.id for turn in told] == [told[0].id] * 3
    assert [turn.joined for turn in told] == [False, True, True]
    assert await world.turns() == 1


async def test_who_asks_anew_gets_a_turn_of_their_own(world: World) -> None:
    server = await world.program()
    request = asks(SLOW)
    async with begun(server, request) as first:
        await world.peer.received(path="/api/v1/chat/completions")
        await aged(world, 60)
        async with begun(server, replace(request, new=True)) as second:
            await world.peer.received(2, path="/api/v1/chat/completions")
            world.steps.release(20)
            assert (await first).id != (await second).id


async def test_the_same_message_after_its_answer_arrived_is_a_new_one(world: World) -> None:
    server = await world.program()
    first = await world.answered(server, asks())
    again = asks(session_id=str(first.session_id))
    turns = [await world.answered(server, again) for _ in range(3)]
    assert [turn.joined for turn in turns] == [False] * 3
    assert len({turn.id for turn in turns}) == 3


async def test_the_same_message_within_a_second_of_the_first_is_a_sample_although_that_was_answered(
    world: World,
) -> None:
    server = await world.program()
    request = asks()
    first = await server.turns.chat(server.principal, request, wait=LONG)
    await aged(world, -60)
    second = await server.turns.chat(server.principal, request, wait=LONG)
    assert (second.status, second.joined, second.id != first.id) == (TurnStatus.COMPLETED, False, True)


@pytest.mark.parametrize("comes_back", [False, True])
async def test_a_message_is_no_sample_if_the_caller_of_the_one_before_left_while_the_store_was_away(
    *, comes_back: bool, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    request = asks(SLOW)
    asking = asyncio.ensure_future(server.turns.chat(server.principal, request, wait=LONG))
    await world.peer.received(path="/api/v1/chat/completions")
    turn = (await server.turns.recent(server.principal, 1))[0]
    wire.go_down()
    asking.cancel(Departure.TIMED_OUT)
    await asyncio.wait({asking})
    world.steps.release(20)
    if comes_back:
        told = await server.turns.get(server.principal, str(turn.id), wait=LONG)
        assert (told.status, told.saved) == (TurnStatus.COMPLETED, False)
    async with asyncio.timeout(25):
        while {"finish_delayed", "leases_not_renewed"}.isdisjoint(caplog.messages):  # by the one that tries first
            await world.turns()
    wire.come_up()
    await world.until("status = 'completed'")
    await aged(world, -60)
    assert (await server.turns.chat(server.principal, request, wait=LONG)).joined is not comes_back


async def test_retry_and_new_are_refused_where_they_make_no_sense(world: World) -> None:
    server = await world.program()
    done = asks(idempotency_key="k")
    await server.turns.chat(server.principal, done, wait=LONG)
    with pytest.raises(ConflictError, match="was not interrupted"):
        await server.turns.chat(server.principal, replace(done, retry=True), wait=LONG)
    for request in (asks(retry=True, new=True), asks(new=True, idempotency_key=str(new_id()))):
        with pytest.raises(InvalidRequestError):
            await server.turns.chat(server.principal, request, wait=LONG)
    nothing_to_retry = await server.turns.chat(server.principal, asks(retry=True), wait=LONG)
    assert nothing_to_retry.status is TurnStatus.COMPLETED


@pytest.mark.parametrize("given", [{"new": True}, {"idempotency_key": "k"}])
async def test_a_session_that_answers_this_very_message_says_so(given: dict[str, Any], world: World) -> None:
    server = await world.program()
    first = await world.answered(server, asks())
    request = asks(SLOW, session_id=str(first.session_id))
    running = await server.turns.chat(server.principal, request, wait=NOW)
    with pytest.raises(ConflictError, match=rf"is answering this message already \(turn {running.id}\)"):
        await server.turns.chat(server.principal, replace(request, **given), wait=NOW)
    other = asks(session_id=str(first.session_id))
    with pytest.raises(ConflictError, match=rf"is answering another message \(turn {running.id}\)"):
        await server.turns.chat(server.principal, replace(other, **given), wait=NOW)


async def test_an_answer_that_did_not_arrive_is_given_again(world: World) -> None:
    one, two = await world.program(), await world.program()
    request = asks()
    lost = await one.turns.chat(one.principal, request, wait=LONG)
    await aged(world, 1)
    found = await two.turns.chat(two.principal, request, wait=LONG)
    assert (found.id, found.reply, found.joined) == (lost.id, lost.reply, True)
    assert len(world.peer.exchanges) == 1
    two.turns.delivered(found)
    assert (await one.turns.chat(one.principal, request, wait=LONG)).id != lost.id


async def test_who_was_told_that_a_turn_runs_has_not_received_its_answer(world: World) -> None:
    server = await world.program()
    request = asks(SLOW)
    running = await server.turns.chat(server.principal, request, wait=NOW)
    server.turns.delivered(running)
    other = await world.answered(server, asks())
    await world.until("id = $1 AND delivered_at IS NOT NULL", other.id)  # those before it were written before
    world.steps.release(20)
    await world.until("id = $1 AND status = 'completed'", running.id)
    await aged(world, 60)
    told = await server.turns.chat(server.principal, request, wait=LONG)
    assert (told.id, told.status, told.joined) == (running.id, TurnStatus.COMPLETED, True)


# --- several of these at once


async def test_two_retries_at_once_of_a_turn_that_was_not_asked_ask_once(world: World) -> None:
    one, two = await world.program(lease=SHORT_LEASE), await world.program(lease=SHORT_LEASE)
    request = asks(idempotency_key="k")
    lost = await an_orphan(world, one, request, asked=False)
    await world.until("status = 'interrupted'")
    async with begun(one, request) as first, begun(two, request) as second:
        told = [await task for task in (first, second)]
    assert told[0].id == told[1].id != lost.id
    assert sorted(turn.joined for turn in told) == [False, True]
    assert len(world.peer.exchanges) == 2


async def test_a_key_whose_turn_was_asked_again_without_it_leads_to_the_turn_that_was(world: World) -> None:
    server = await world.program(lease=SHORT_LEASE)
    request = asks(idempotency_key="k")
    await an_orphan(world, server, request, asked=False)
    await world.until("status = 'interrupted'")
    again = await world.answered(server, replace(request, idempotency_key=None))
    told = await server.turns.chat(server.principal, request, wait=LONG)
    assert (told.id, told.joined) == (again.id, True)


# No lock, of which the call would wait two seconds at most.
HELD = """
CREATE TABLE public.gate (is_open boolean NOT NULL);
GRANT SELECT ON public.gate TO PUBLIC;
CREATE FUNCTION public.held() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN WHILE NOT EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END $$;
CREATE TRIGGER held AFTER INSERT ON agentapi.turns FOR EACH ROW EXECUTE FUNCTION public.held()
"""


async def somebody_waits(world: World) -> None:
    """Wait until a call waits for the lock of another one."""
    async with asyncio.timeout(25):
        while not await world.owner.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            pass


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("continues", [False, True])
async def test_a_call_that_goes_on_after_its_answer_was_given_up_makes_one_turn(
    *, key: str | None, continues: bool, world: World
) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    first = await world.answered(server, asks())
    await world.owner.execute(HELD)
    wire.break_at("begin_turn_2", Break.SILENT)
    try:
        request = asks(idempotency_key=key, session_id=str(first.session_id) if continues else None)
        async with begun(server, request) as asking:
            await somebody_waits(world)  # the second call, for the first
            await world.owner.execute("INSERT INTO public.gate VALUES (true)")
            told = await asking
    finally:
        await world.owner.execute("INSERT INTO public.gate VALUES (true)")
        await world.owner.execute("DROP FUNCTION public.held CASCADE; DROP TABLE public.gate")
    assert (told.status, told.saved) == (TurnStatus.COMPLETED, True)
    assert len(world.peer.exchanges) == 2
    assert await world.turns() == 2


async def test_a_shutdown_waits_for_messages_that_are_being_accepted(world: World) -> None:
    server = await world.program()
    first = await world.answered(server, asks())
    async with asyncio.TaskGroup() as group:
        async with locked_sessions(world):
            request = asks(session_id=str(first.session_id))
            asking = group.create_task(server.turns.chat(server.principal, request, wait=LONG))
            await somebody_waits(world)
            draining = group.create_task(server.turns.drain())
            await asyncio.sleep(0)  # noqa: TID251  # lets it begin, and waits for no time
        await draining
        assert (await asking).status.is_final
    assert await world.owner.fetchval("SELECT bool_and(ended_at IS NOT NULL) FROM agentapi.turns")


async def test_an_orphan_of_a_month_ago_is_settled(world: World) -> None:
    server = await world.program(lease=SHORT_LEASE)
    await an_orphan(world, server, asks(), asked=True)
    await aged(world, 30 * 24 * 3600)
    await world.until("status = 'interrupted'")
    assert (await server.turns.recent(server.principal, 1))[0].status is TurnStatus.INTERRUPTED


async def test_a_store_that_is_away_between_the_beginning_and_the_asking_is_waited_for(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    wire.break_at("begin_turn_2", Break.BEFORE)
    async with begun(server, asks(idempotency_key="k")) as asking:
        await wire.has_broken.wait()
        wire.break_at("SET asked_at", Break.BEFORE)
        told = await asking
    assert wire.broken == 2
    assert told.status is TurnStatus.COMPLETED
    assert len(world.peer.exchanges) == 1


@pytest.mark.parametrize("what", ["get", "cancel"])
async def test_who_asks_for_a_turn_elsewhere_is_not_kept_waiting_by_a_silent_store(what: str, world: World) -> None:
    owner = await world.program()
    wire, url = await world.wire()
    other = await world.program(url)
    running = await owner.turns.chat(owner.principal, asks(SLOW), wait=NOW)
    wire.break_at("agentapi.turns t" if what == "get" else "SET cancel_requested_at", Break.SILENT)
    with pytest.raises(StoreUnavailableError, match="does not answer in time"):
        await getattr(other.turns, what)(other.principal, str(running.id))
    world.steps.release(20)


async def test_a_turn_elsewhere_is_told_as_it_was_when_the_store_falls_silent(world: World) -> None:
    owner = await world.program()
    wire, url = await world.wire()
    other = await world.program(url)
    running = await owner.turns.chat(owner.principal, asks(SLOW), wait=NOW)
    wire.break_at("SET followed_at", Break.SILENT)
    told = await other.turns.get(other.principal, str(running.id))
    assert (told.id, told.status, wire.broken) == (running.id, TurnStatus.RUNNING, 1)
    world.steps.release(20)


async def test_the_key_of_a_deleted_session_is_free(world: World) -> None:
    server = await world.program()
    request = asks(idempotency_key="k")
    first = await world.answered(server, request)
    await server.sessions.delete(server.principal, str(first.session_id))
    again = await server.turns.chat(server.principal, request, wait=LONG)
    assert (again.status, again.joined, again.id != first.id) == (TurnStatus.COMPLETED, False, True)
    assert (await server.turns.chat(server.principal, request, wait=LONG)).id == again.id
