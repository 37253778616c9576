"""Turns in Postgres: the order of what is said, and what is returned against what is kept."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.errors import BackendFault, NotFoundError, StoreBusyError
from agentapi_mcp.base.ids import AgentId, MessageId, OrgId, SessionId, TurnId, UserId, new_id
from agentapi_mcp.core.backends.events import StopReason
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    EndReason,
    History,
    NewTurn,
    Obstacles,
    SettledTurn,
    SettlingRule,
    StaleDefaults,
    Turn,
    TurnCost,
    TurnFault,
    TurnMark,
    TurnStatus,
)
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.support.new_turns import ending
from tests.support.records import filled

OWNER, ANOTHER = UUID(int=5), UUID(int=6)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def principal(database: Database) -> Principal:
    """Return the machine's user."""
    return await PostgresProfiles(database).local_principal()


@pytest.fixture
async def agent(database: Database) -> AgentId:
    """Return an agent's row; it goes away with all that it said."""
    async with database.as_system("add an agent") as connection:
        return AgentId(
            await connection.fetchval("INSERT INTO public.agents (name, type) VALUES ('droid', 'custom') RETURNING id")
        )


@pytest.fixture
async def owner(database_urls: DatabaseUrls) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect as the owner of the tables, who sees all rows."""
    connection = await asyncpg.connect(database_urls.owner)
    await connection.execute("SET row_security = off")
    yield connection
    await connection.close()


def new_turn(agent: AgentId, message: str, session: SessionId | None = None, *, lease: float = 60) -> NewTurn:
    return NewTurn(
        id=TurnId(new_id()),
        message_id=MessageId(new_id()),
        session_id=session,
        new_session_id=SessionId(new_id()),
        agent_id=agent,
        agent="droid",
        backend="openai",
        model_row_id=None,
        model_row_name=None,
        model=None,
        message=message,
        title="a title",
        parameters=Parameters(temperature=0.5),
        fingerprint=new_id().bytes,
        client="tests 1.0",
        idempotency_key=None,
        lease_owner=OWNER,
        lease=timedelta(seconds=lease),
    )


async def begin(turns: PostgresTurns, principal: Principal, new: NewTurn) -> AcceptedTurn:
    accepted = await turns.begin(principal, new)
    assert isinstance(accepted, AcceptedTurn)
    return accepted


async def test_what_is_returned_is_what_is_kept(database: Database, principal: Principal, agent: AgentId) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, new_turn(agent, "hello ∑"))).turn
    assert running == await turns.get(principal, running.id)
    said = replace(
        running,
        status=TurnStatus.COMPLETED,
        reply="yes ∑",
        end_reason=EndReason.ANSWERED,
        stop_reason=StopReason.END,
        bill=filled(TurnCost),
        history_dropped=3,
        warning="short",
    )
    ended = await turns.finish(principal, said, ending(OWNER, thread="t1"))
    assert ended == await turns.get(principal, running.id)
    assert ended is not None
    assert ended.last_message_id != running.last_message_id
    following = await begin(turns, principal, new_turn(agent, "more", running.session_id))
    assert (following.previous_message_id, following.state) == (ended.last_message_id, {"thread": "t1"})


async def test_a_backend_is_not_handed_what_others_have_overtaken(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    first = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    said = replace(first, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
    await turns.finish(principal, said, ending(OWNER, thread="t1"))
    for other in ({"agent": "guide"}, {"backend": "guide"}):
        new = replace(new_turn(agent, "more", first.session_id), **other)
        meanwhile = await begin(turns, principal, new)
        assert meanwhile.state == {}
        said = replace(meanwhile.turn, status=TurnStatus.COMPLETED, reply="I", end_reason=EndReason.ANSWERED)
        await turns.finish(principal, said, ending(OWNER))
        following = await begin(turns, principal, new_turn(agent, "and?", first.session_id))
        assert following.state == {}
        said = replace(following.turn, status=TurnStatus.COMPLETED, reply="so", end_reason=EndReason.ANSWERED)
        await turns.finish(principal, said, ending(OWNER, thread="t2"))


async def test_a_failure_without_a_word_is_kept_with_no_message(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    fault = TurnFault(BackendFault.RATE_LIMIT, "busy", "wait", retryable=True, retry_after=timedelta(seconds=7))
    failed = replace(running, status=TurnStatus.FAILED, end_reason=EndReason.FAULT, error=fault)
    ended = await turns.finish(principal, failed, ending(OWNER, reply=False))
    assert ended is not None
    assert ended == await turns.get(principal, running.id)
    assert ended.last_message_id == running.last_message_id
    assert await contents(database, principal, running) == ["hello"]


async def test_only_the_owner_of_the_lease_writes_the_end(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    said = replace(running, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
    assert await turns.finish(principal, said, ending(ANOTHER)) is None
    assert await contents(database, principal, running) == ["hello"]
    assert await turns.finish(principal, said, ending(OWNER)) is not None
    assert await contents(database, principal, running) == ["hello", "yes"]


async def test_only_the_owner_of_the_lease_renews_it(database: Database, principal: Principal, agent: AgentId) -> None:
    turns = PostgresTurns(database)
    lost = (await begin(turns, principal, new_turn(agent, "hello", lease=-1))).turn
    assert (await turns.renew(ANOTHER, [lost.id], MINUTE)).leases == ()
    assert [renewed.turn_id for renewed in (await turns.renew(OWNER, [lost.id], MINUTE)).leases] == [lost.id]
    assert (await turns.get(principal, lost.id)).status is TurnStatus.RUNNING


async def test_only_the_owner_of_the_lease_saves_what_was_said_so_far(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    assert await turns.save_partial(principal, OWNER, running.id, "so far")
    assert not await turns.save_partial(principal, ANOTHER, running.id, "overwritten")
    assert (await turns.get(principal, running.id)).reply == "so far"


@pytest.mark.parametrize("mark", TurnMark)
async def test_nobody_marks_the_turn_of_another_user_or_organisation(
    mark: TurnMark, database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    before = await marks(database, running)
    for stranger in (replace(principal, user_id=UserId(new_id())), replace(principal, org_id=OrgId(new_id()))):
        await turns.mark(stranger, running.id, mark)
        assert await marks(database, running) == before
    await turns.mark(principal, running.id, mark)
    assert await marks(database, running) != before


@pytest.mark.parametrize("mark", [TurnMark.FOLLOWED, TurnMark.ANSWERED_RUNNING, TurnMark.CALLER_GONE])
async def test_a_mark_that_is_written_late_has_its_time_and_moves_no_later_one(
    mark: TurnMark, database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    late = await turns.mark(principal, running.id, mark, timedelta(hours=1))
    now = await turns.mark(principal, running.id, mark)
    assert late is not None
    assert now is not None
    assert timedelta(hours=1) <= now - late < timedelta(hours=2)
    assert await turns.mark(principal, running.id, mark, timedelta(minutes=1)) == now


async def test_the_end_is_found_again_after_its_acknowledgement_was_lost(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    said = replace(running, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
    once = ending(OWNER)
    ended = await turns.finish(principal, said, once)
    assert await turns.finish(principal, said, once) == ended
    assert await turns.finish(principal, said, replace(once, lease_owner=ANOTHER)) is None
    assert await contents(database, principal, running) == ["hello", "yes"]


@pytest.mark.parametrize("continues", [False, True])
async def test_a_turn_is_found_again_after_its_acknowledgement_was_lost(
    *, continues: bool, database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    session = None
    if continues:
        first = (await begin(turns, principal, new_turn(agent, "first"))).turn
        said = replace(first, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
        await turns.finish(principal, said, ending(OWNER, thread="t1"))
        session = first.session_id
    new = replace(new_turn(agent, "hello", session), idempotency_key="k")
    accepted = await begin(turns, principal, new)
    assert await begin(turns, principal, replace(new, again=True, asked=False)) == accepted
    assert (await contents(database, principal, accepted.turn))[-1] == "hello"


async def test_a_call_that_is_repeated_before_it_arrived_writes_what_it_would_have_written(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    accepted = await begin(
        PostgresTurns(database), principal, replace(new_turn(agent, "hello"), again=True, asked=False)
    )
    assert accepted.turn.asked_at is None
    assert await PostgresTurns(database).get(principal, accepted.turn.id) == accepted.turn


async def test_a_repeated_call_whose_turn_was_settled_meanwhile_finds_that(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns, new = PostgresTurns(database), new_turn(agent, "hello")
    await begin(turns, principal, new)
    await settle_dead(turns)
    assert await turns.begin(principal, replace(new, again=True)) == Obstacles(same_turn=new.id)


async def test_only_the_owner_says_that_it_asks(database: Database, principal: Principal, agent: AgentId) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, replace(new_turn(agent, "hello"), asked=False))).turn
    assert running.asked_at is None
    assert not await turns.mark_asked(ANOTHER, running.id)
    assert (await turns.get(principal, running.id)).asked_at is None
    assert await turns.mark_asked(OWNER, running.id)
    assert (await turns.get(principal, running.id)).asked_at is not None


async def test_a_turn_that_ended_before_it_was_asked_says_so(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    assert running.asked_at is not None
    stopped = replace(running, status=TurnStatus.INTERRUPTED, end_reason=EndReason.SHUTDOWN)
    ended = await turns.finish(principal, stopped, replace(ending(OWNER, reply=False), asked=False))
    assert ended is not None
    assert ended.asked_at is None
    assert await turns.get(principal, running.id) == ended


async def test_an_end_is_never_before_its_beginning(database: Database, principal: Principal, agent: AgentId) -> None:
    turns = PostgresTurns(database)
    ahead, dead = [(await begin(turns, principal, new_turn(agent, "hello"))).turn for _ in range(2)]
    async with database.as_system("as after the store's clock was set back") as connection:
        await connection.execute("UPDATE agentapi.turns SET created_at = created_at + interval '1 hour'")
    said = replace(ahead, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
    await turns.finish(principal, said, ending(OWNER))
    await settle_dead(turns)
    for turn in (ahead, dead):
        stored = await turns.get(principal, turn.id)
        assert stored.ended_at is not None
        assert stored.ended_at >= stored.created_at
        assert stored.bill.latency is None or stored.bill.latency >= timedelta(0)


# --- what stands in the way


async def test_an_open_turn_of_the_session_stands_in_the_way(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    for status in ("running", "input_required"):
        async with database.as_system("test") as connection:
            await connection.execute("UPDATE agentapi.turns SET status = $2 WHERE id = $1", running.id, status)
        other = new_turn(agent, "more", running.session_id)
        assert await turns.begin(principal, replace(other, idempotency_key="k")) == Obstacles(open_turn=running.id)
    assert await contents(database, principal, running) == ["hello"]
    said = replace(running, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
    assert await turns.finish(principal, said, ending(OWNER)) is not None
    await begin(turns, principal, replace(new_turn(agent, "more", running.session_id), idempotency_key="k"))


async def test_a_turn_with_the_key_stands_in_the_way_until_the_key_expires(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    keyed = replace(new_turn(agent, "hello"), idempotency_key="k")
    first = (await begin(turns, principal, keyed)).turn
    again = replace(new_turn(agent, "other"), idempotency_key="k")
    assert await turns.begin(principal, again) == Obstacles(keyed_turn=first.id)
    async with database.as_system("test") as connection:
        await connection.execute("UPDATE agentapi.idempotency_keys SET expires_at = now() - interval '1 second'")
    assert (await begin(turns, principal, again)).turn.id == again.id


SAME = b"the same request"


def repeated(agent: AgentId, **given: object) -> NewTurn:
    return replace(new_turn(agent, "hello"), fingerprint=SAME, **given)


async def test_a_turn_of_the_same_request_stands_in_the_way_while_its_answer_may_not_have_arrived(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, repeated(agent))).turn
    found = Obstacles(same_turn=running.id)
    assert await turns.begin(principal, repeated(agent)) == found
    said = replace(running, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
    await turns.finish(principal, said, ending(OWNER))
    assert await turns.begin(principal, repeated(agent)) == found
    await turns.mark_delivered([running.id])
    await begin(turns, principal, repeated(agent))


@pytest.mark.parametrize(
    "given", [{"client": "another 1.0"}, {"client": None}, {"idempotency_key": "k"}, {"join": False}]
)
async def test_another_client_and_who_says_a_key_or_asks_anew_get_a_turn_of_their_own(
    given: dict[str, object], database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    await begin(turns, principal, repeated(agent))
    assert isinstance(await turns.begin(principal, repeated(agent, **given)), AcceptedTurn)


@pytest.mark.parametrize("status", [TurnStatus.CANCELLED, TurnStatus.FAILED])
async def test_a_stopped_or_failed_turn_stands_in_nobodys_way(
    status: TurnStatus, database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, repeated(agent))).turn
    await turns.finish(principal, replace(running, status=status), ending(OWNER, reply=False))
    assert isinstance(await turns.begin(principal, repeated(agent)), AcceptedTurn)


async def test_a_turn_that_ended_ten_minutes_ago_stands_in_nobodys_way(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await begin(turns, principal, repeated(agent))).turn
    await turns.finish(principal, replace(running, status=TurnStatus.COMPLETED, reply="yes"), ending(OWNER))
    async with database.as_system("test") as connection:
        await connection.execute("UPDATE agentapi.turns SET ended_at = ended_at - interval '10 minutes'")
    assert isinstance(await turns.begin(principal, repeated(agent)), AcceptedTurn)


async def test_of_turns_of_the_same_request_one_that_nobody_waits_for_comes_first(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    left, other = [(await begin(turns, principal, repeated(agent, join=False))).turn for _ in range(2)]
    assert await turns.begin(principal, repeated(agent)) == Obstacles(same_turn=other.id)
    for mark in (TurnMark.CALLER_GONE, TurnMark.ANSWERED_RUNNING):
        await turns.mark(principal, left.id, mark)
        assert await turns.begin(principal, repeated(agent)) == Obstacles(same_turn=left.id)
        assert (await turns.find(principal, left.id)).caller_left
        await turns.mark(principal, left.id, TurnMark.FOLLOWED)
        assert await turns.begin(principal, repeated(agent)) == Obstacles(same_turn=other.id)
        assert not (await turns.find(principal, left.id)).caller_left


async def test_an_owner_without_a_connection_is_gone_and_behind_a_pooler_nobody_knows(
    database_urls: DatabaseUrls, principal: Principal, agent: AgentId
) -> None:
    async with AsyncExitStack() as stack:
        server = RemoteServer(database_urls.app)
        database = await stack.enter_async_context(open_database(server, PoolOptions()))
        turns = PostgresTurns(database)
        mine = (await begin(turns, principal, repeated(agent, join=False, lease_owner=database.process))).turn
        dead = (await begin(turns, principal, repeated(agent, join=False))).turn
        assert [(await turns.find(principal, turn.id)).owner_gone for turn in (mine, dead)] == [False, True]
        pooled = await stack.enter_async_context(open_database(server, PoolOptions(statement_cache=False)))
        assert not (await PostgresTurns(pooled).find(principal, dead.id)).owner_gone
        await turns.finish(principal, replace(dead, status=TurnStatus.COMPLETED, reply="yes"), ending(OWNER))
        assert not (await turns.find(principal, dead.id)).owner_gone


# --- asked again


async def test_an_interrupted_turn_is_asked_again_with_its_message_and_without_what_it_had_said(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    first = (await begin(turns, principal, new_turn(agent, "before"))).turn
    await turns.finish(principal, replace(first, status=TurnStatus.COMPLETED, reply="yes"), ending(OWNER))
    new = replace(new_turn(agent, "hello", first.session_id), idempotency_key="k")
    lost = (await begin(turns, principal, new)).turn
    await turns.save_partial(principal, OWNER, lost.id, "so f")
    await settle_dead(turns)
    retry = replace(new, id=TurnId(new_id()), message_id=MessageId(new_id()), replaces=lost.id)
    accepted = await begin(turns, principal, retry)
    assert accepted.turn.last_message_id == lost.last_message_id
    assert await contents(database, principal, lost) == ["before", "yes", "hello", "so f"]
    history = await PostgresSessions(database).history(principal, lost.session_id, retry.id, 9999)
    assert [message.text for message in history.messages] == ["before", "yes"]
    assert accepted.replaces
    assert await turns.begin(principal, replace(new, id=TurnId(new_id()))) == Obstacles(
        open_turn=retry.id, keyed_turn=retry.id
    )
    await turns.finish(principal, replace(accepted.turn, status=TurnStatus.COMPLETED, reply="done"), ending(OWNER))
    after = (await begin(turns, principal, new_turn(agent, "after", first.session_id))).turn
    history = await PostgresSessions(database).history(principal, lost.session_id, after.id, 9999)
    assert [message.text for message in history.messages] == ["before", "yes", "hello", "done"]
    assert history.dropped == 0


async def test_messages_that_do_not_fit_are_counted_and_what_a_retry_has_replaced_is_not(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns, sessions = PostgresTurns(database), PostgresSessions(database)
    lost = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    await turns.save_partial(principal, OWNER, lost.id, "so f")
    await settle_dead(turns)
    accepted = await begin(turns, principal, replace(new_turn(agent, "hello", lost.session_id), replaces=lost.id))
    assert await sessions.history(principal, lost.session_id, accepted.turn.id, 9999) == History(())
    await turns.finish(principal, replace(accepted.turn, status=TurnStatus.COMPLETED, reply="done"), ending(OWNER))
    after = (await begin(turns, principal, new_turn(agent, "after", lost.session_id))).turn
    for max_bytes, kept, dropped in ((9999, ["hello", "done"], 0), (5, ["done"], 1), (3, list[str](), 2)):
        history = await sessions.history(principal, lost.session_id, after.id, max_bytes)
        assert ([message.text for message in history.messages], history.dropped) == (kept, dropped)


async def test_an_interrupted_turn_that_others_have_overtaken_is_asked_again_at_the_end(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    lost = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    await settle_dead(turns)
    other = (await begin(turns, principal, new_turn(agent, "meanwhile", lost.session_id))).turn
    await turns.finish(principal, replace(other, status=TurnStatus.COMPLETED, reply="yes"), ending(OWNER))
    await begin(turns, principal, replace(new_turn(agent, "hello", lost.session_id), replaces=lost.id))
    assert await contents(database, principal, lost) == ["hello", "meanwhile", "yes", "hello"]


async def test_a_turn_is_asked_again_once_and_only_if_it_was_interrupted(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    lost = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    await settle_dead(turns)
    done = (await begin(turns, principal, new_turn(agent, "done"))).turn
    await turns.finish(principal, replace(done, status=TurnStatus.COMPLETED, reply="yes"), ending(OWNER))

    def retry(turn: Turn) -> NewTurn:
        return replace(new_turn(agent, "hello", turn.session_id), replaces=turn.id, idempotency_key=str(new_id()))

    assert await turns.begin(principal, retry(done)) == Obstacles(same_turn=done.id)
    again = (await begin(turns, principal, retry(lost))).turn
    await turns.finish(principal, replace(again, status=TurnStatus.INTERRUPTED), ending(OWNER, reply=False))
    assert await turns.begin(principal, retry(lost)) == Obstacles(same_turn=lost.id)
    async with database.as_system("test") as connection:
        keys = await connection.fetchval("SELECT count(*) FROM agentapi.idempotency_keys WHERE turn_id <> $1", again.id)
    assert keys == 0


# --- turns that nobody runs


async def settle_dead(turns: PostgresTurns) -> tuple[SettledTurn, ...]:
    """Settle the turns of an owner that is known to be dead."""
    return await turns.settle(SettlingRule(own=frozenset(), dead=frozenset({OWNER})))


def by_lease(seen_at: datetime, *own: TurnId) -> SettlingRule:
    gap = timedelta(seconds=10)
    return SettlingRule(own=frozenset(own), lease=timedelta(seconds=15), seen_at=seen_at, gap=gap)


async def test_a_turn_whose_lease_is_over_is_interrupted_with_the_text_so_far(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    over = (await begin(turns, principal, new_turn(agent, "first", lease=-1))).turn
    mine = (await begin(turns, principal, new_turn(agent, "mine", lease=-1))).turn
    lives = (await begin(turns, principal, new_turn(agent, "lives", lease=15))).turn
    await turns.save_partial(principal, OWNER, over.id, "so far")
    now = (await turns.renew(ANOTHER, [], MINUTE)).at
    settled = await turns.settle(by_lease(now, mine.id))
    assert [(turn.id, turn.session_id, turn.user_id) for turn in settled] == [
        (over.id, over.session_id, principal.user_id)
    ]
    stored = await turns.get(principal, over.id)
    assert (stored.status, stored.end_reason) == (TurnStatus.INTERRUPTED, EndReason.LEASE_EXPIRED)
    assert stored.bill.latency is None  # nobody saw its end
    following = await begin(turns, principal, new_turn(agent, "second", over.session_id, lease=15))
    assert await contents(database, principal, over) == ["first", "so far", "second"]
    assert following.previous_message_id == stored.last_message_id
    for turn in (mine, lives):
        assert (await turns.get(principal, turn.id)).status is TurnStatus.RUNNING
    assert await turns.settle(by_lease(now, mine.id)) == ()


async def test_the_settling_of_a_turn_is_in_the_audit_log(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    turn = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    await settle_dead(turns)
    async with database.as_system("test") as connection:
        row = await connection.fetchrow(
            "SELECT action, outcome, user_id, details::text FROM agentapi.audit_events WHERE target_id = $1",
            str(turn.id),
        )
    assert row is not None
    assert tuple(row)[:3] == ("turn_ended", "failed", principal.user_id)
    assert json.loads(row["details"]) == {"agent": "droid", "status": "interrupted", "reason": "lease_expired"}


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(hours=1)])
async def test_nothing_is_settled_when_the_stores_clock_has_jumped(
    jump: timedelta, database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    await begin(turns, principal, new_turn(agent, "hello", lease=-1))
    now = (await turns.renew(ANOTHER, [], MINUTE)).at
    assert await turns.settle(by_lease(now - jump)) == ()
    assert len(await turns.settle(by_lease(now))) == 1


async def test_a_lease_from_before_the_stores_clock_was_set_back_is_over(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    await begin(turns, principal, new_turn(agent, "hello", lease=3600))
    now = (await turns.renew(ANOTHER, [], MINUTE)).at
    assert len(await turns.settle(by_lease(now))) == 1


async def test_a_locked_session_is_left_to_the_next_sweep(
    database: Database, database_urls: DatabaseUrls, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    locked, free = [(await begin(turns, principal, new_turn(agent, "hello"))).turn for _ in range(2)]
    owner = await asyncpg.connect(database_urls.owner)
    try:
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute("SET LOCAL row_security = off")
        await owner.execute("SELECT FROM public.chat_sessions WHERE id = $1 FOR UPDATE", locked.session_id)
        assert [turn.id for turn in await settle_dead(turns)] == [free.id]
        with pytest.raises(StoreBusyError):
            await turns.begin(principal, new_turn(agent, "more", locked.session_id))
        said = replace(locked, status=TurnStatus.COMPLETED, reply="yes")
        with pytest.raises(StoreBusyError):
            await turns.finish(principal, said, ending(OWNER))
        await transaction.rollback()
    finally:
        await owner.close()
    assert [turn.id for turn in await settle_dead(turns)] == [locked.id]


async def test_a_turn_that_somebody_locks_keeps_no_other_one_from_being_renewed_or_settled(
    database: Database, database_urls: DatabaseUrls, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    locked, free = [(await begin(turns, principal, new_turn(agent, words, lease=-60))).turn for words in "ab"]
    owner = await asyncpg.connect(database_urls.owner)
    try:
        async with owner.transaction():
            await owner.execute("SET LOCAL row_security = off")
            await owner.execute("SELECT FROM agentapi.turns WHERE id = $1 FOR UPDATE", locked.id)
            renewal = await turns.renew(OWNER, [locked.id, free.id], MINUTE)
            assert {lease.turn_id for lease in renewal.leases} == {locked.id, free.id}
            rule = SettlingRule(own=frozenset(), dead=frozenset({OWNER}), lease=None, seen_at=renewal.at, gap=MINUTE)
            assert [turn.id for turn in await turns.settle(rule)] == [free.id]
    finally:
        await owner.close()


async def test_turns_that_have_not_ended_are_listed_by_themselves(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    first, second = [(await begin(turns, principal, new_turn(agent, words))).turn for words in ("first", "second")]
    assert await turns.finish(principal, replace(first, status=TurnStatus.COMPLETED), ending(OWNER))
    assert [turn.id for turn in await turns.recent(principal, 9, only_open=True)] == [second.id]
    assert [turn.id for turn in await turns.recent(principal, 2)] == [second.id, first.id]


async def test_the_owners_of_open_turns_are_listed(database: Database, principal: Principal, agent: AgentId) -> None:
    turns = PostgresTurns(database)
    await begin(turns, principal, new_turn(agent, "one"))
    done = (await begin(turns, principal, replace(new_turn(agent, "two"), lease_owner=ANOTHER))).turn
    assert await turns.owners() == {OWNER, ANOTHER}
    await turns.finish(principal, replace(done, status=TurnStatus.COMPLETED, reply="yes"), ending(ANOTHER))
    assert await turns.owners() == {OWNER}


async def test_defaults_are_the_sessions_and_the_organisations_and_nobody_elses(
    database: Database, database_urls: DatabaseUrls, principal: Principal, agent: AgentId
) -> None:
    sessions, stranger = PostgresSessions(database), Principal(UserId(new_id()), principal.org_id, principal.role)
    turn = (await begin(PostgresTurns(database), principal, new_turn(agent, "hello"))).turn
    owner = await asyncpg.connect(database_urls.owner)
    try:
        before = await owner.fetchval("SELECT settings FROM public.organizations WHERE id = $1", principal.org_id)
        change = "UPDATE public.organizations SET settings = $2::jsonb WHERE id = $1"
        await owner.execute(change, principal.org_id, '{"default_agent": "droid", "billing_key": "secret"}')
        found = await sessions.defaults(principal, turn.session_id)
        assert found.settings == {"default_agent": "droid"}
        assert found.agent == "droid"
        assert (await sessions.defaults(principal, None)).agent is None
        assert (await sessions.defaults(stranger, None)).settings == {}
        elsewhere = Principal(principal.user_id, OrgId(new_id()), principal.role)
        assert (await sessions.defaults(elsewhere, None)).settings == {}
        for other in (stranger, elsewhere):
            with pytest.raises(NotFoundError):
                await sessions.defaults(other, turn.session_id)
        await owner.execute(change, principal.org_id, before)
    finally:
        await owner.close()


# Each changes what a message in the session begins with: settings, the session's agent and model, names, parameters.
CHANGES = (
    """UPDATE public.organizations SET settings = '{"default_agent": "droid"}'""",
    "UPDATE public.agents SET name = 'robot' WHERE name = 'droid'",
    "UPDATE public.chat_sessions SET agent_id = NULL",
    "UPDATE public.chat_sessions SET model_id = (SELECT id FROM public.models LIMIT 1)",
    """UPDATE public.chat_sessions SET metadata = '{"temperature": 1}'""",
)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_turn_that_was_chosen_by_what_has_changed_does_not_begin(
    change: str, database: Database, owner: "asyncpg.Connection[asyncpg.Record]", principal: Principal, agent: AgentId
) -> None:
    turns, sessions = PostgresTurns(database), PostgresSessions(database)
    await owner.execute(
        "INSERT INTO public.models (agent_id, name, model_id, provider) VALUES ($1, 'm', 'm', 'p')", agent
    )
    first = (await begin(turns, principal, new_turn(agent, "hello"))).turn
    await turns.finish(principal, replace(first, status=TurnStatus.COMPLETED, reply="yes"), ending(OWNER))
    session = first.session_id
    new = replace(new_turn(agent, "more", session), defaults=await sessions.defaults(principal, session))
    before = await owner.fetchval("SELECT settings::text FROM public.organizations WHERE id = $1", principal.org_id)
    await owner.execute(change)
    try:
        assert await turns.begin(principal, new) == StaleDefaults(again=False)
        assert await turns.begin(principal, replace(new, again=True)) == StaleDefaults(again=True)
        now = replace(new, defaults=await sessions.defaults(principal, session))
        began = await begin(turns, principal, now)
        # A repeated call finds what it wrote, although that has changed what the session goes on with.
        assert (await begin(turns, principal, replace(new, again=True))).turn == began.turn
    finally:
        await owner.execute("UPDATE public.agents SET name = 'droid' WHERE name = 'robot'")
        await owner.execute(
            "UPDATE public.organizations SET settings = $2::text::jsonb WHERE id = $1", principal.org_id, before
        )


@pytest.mark.parametrize("has_model", [False, True])
async def test_a_turn_that_began_tells_what_the_next_one_begins_with(
    has_model: bool,  # noqa: FBT001  # a parameter of the test
    database: Database,
    principal: Principal,
    agent: AgentId,
) -> None:
    turns, sessions = PostgresTurns(database), PostgresSessions(database)
    async with database.as_system("add a model") as connection:
        model = await connection.fetchval(
            "INSERT INTO public.models (agent_id, name, model_id, provider) VALUES ($1, 'm', 'm', 'p') RETURNING id",
            agent,
        )
    session: SessionId | None = None
    for _ in range(3):
        new = replace(new_turn(agent, "hello", session), defaults=await sessions.defaults(principal, session))
        new = replace(new, model_row_id=model, model_row_name="m", model="m") if has_model else new
        accepted = await begin(turns, principal, new)
        session = accepted.turn.session_id
        assert accepted.following is not None
        assert replace(accepted.following, size=0) == replace(await sessions.defaults(principal, session), size=0)
        said = replace(accepted.turn, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
        await turns.finish(principal, said, ending(OWNER))


async def marks(database: Database, turn: Turn) -> list[datetime | None]:
    """Read what is noted of a turn's callers."""
    async with database.as_system("test") as connection:
        row = await connection.fetchrow(
            "SELECT followed_at, delivered_at, answered_running_at, caller_gone_at FROM agentapi.turns WHERE id = $1",
            turn.id,
        )
    assert row is not None
    return list(row)


async def contents(database: Database, principal: Principal, turn: Turn) -> list[str]:
    """Read what is said in a turn's session."""
    page = await PostgresSessions(database).messages(
        principal, turn.session_id, cursor=None, limit=50, max_bytes=100_000
    )
    return [message.content for message in page.items]


async def test_a_turn_is_found_by_a_part_of_its_id_among_all_and_by_its_owner_alone(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns, others = PostgresTurns(database), replace(principal, user_id=UserId(new_id()))
    made = [(await begin(turns, principal, new_turn(agent, f"turn {place}"))).turn.id for place in range(3)]
    for id_ in made:
        for part in (id_.hex, id_.hex[:31], id_.hex[1:], id_.hex[-12:]):
            assert await turns.ids_like(principal, part, 10) == (id_,)
            assert await turns.ids_like(others, part, 10) == ()
        assert await turns.ids_like(principal, id_.hex[8:20], 10) == ()
    assert set(made) <= set(await turns.ids_like(principal, "01", 1000))
    assert len(await turns.ids_like(principal, "01", 2)) == 2
