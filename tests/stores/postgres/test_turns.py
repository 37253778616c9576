"""Turns in Postgres: the order of what is said, and what is returned against what is kept."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.errors import BackendFault, NotFoundError
from agentapi_mcp.base.ids import AgentId, OrgId, SessionId, TurnId, UserId, new_id
from agentapi_mcp.core.backends.events import StopReason, Usage
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    Ending,
    EndReason,
    Joined,
    NewTurn,
    RouteStep,
    Turn,
    TurnCost,
    TurnFault,
    TurnMark,
    TurnStatus,
)
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls

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


def new_turn(agent: AgentId, message: str, session: SessionId | None = None, *, lease: float = 60) -> NewTurn:
    return NewTurn(
        id=TurnId(new_id()),
        session_id=session,
        agent_id=agent,
        agent="droid",
        backend="openai",
        model_row_id=None,
        model=None,
        message=message,
        title="a title",
        parameters=Parameters(temperature=0.5),
        fingerprint=new_id().bytes,
        idempotency_key=None,
        lease_owner=OWNER,
        lease=timedelta(seconds=lease),
    )


def ending(**state: str) -> Ending:
    return Ending(lease_owner=OWNER, delivered=False, caller_gone=False, state=state)


async def accept(turns: PostgresTurns, principal: Principal, new: NewTurn) -> AcceptedTurn:
    accepted = await turns.accept(principal, new)
    assert isinstance(accepted, AcceptedTurn)
    return accepted


async def test_what_is_returned_is_what_is_kept(database: Database, principal: Principal, agent: AgentId) -> None:
    turns = PostgresTurns(database)
    running = (await accept(turns, principal, new_turn(agent, "hello ∑"))).turn
    assert running == await turns.get(principal, running.id)
    bill = TurnCost(
        usage=Usage(input_tokens=7, output_tokens=5, cached_tokens=2, reasoning_tokens=1, cost_usd=Decimal("0.000125")),
        cost_source="provider",
        latency=timedelta(milliseconds=1234),
        time_to_first_token=timedelta(milliseconds=56),
        model_used="vendor/model",
        provider="vendor",
        route=(RouteStep(agent="droid", backend="openai", model="m", outcome="completed", milliseconds=1234),),
    )
    said = replace(
        running,
        status=TurnStatus.COMPLETED,
        reply="yes ∑",
        end_reason=EndReason.ANSWERED,
        stop_reason=StopReason.END,
        bill=bill,
        history_dropped=3,
        warning="short",
    )
    ended = await turns.finish(principal, said, ending(thread="t1"))
    assert ended == await turns.get(principal, running.id)
    assert ended is not None
    assert ended.last_message_id != running.last_message_id
    following = await accept(turns, principal, new_turn(agent, "more", running.session_id))
    assert (following.previous_message_id, following.state) == (ended.last_message_id, {"thread": "t1"})


async def test_a_backend_is_not_handed_what_others_have_overtaken(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    first = (await accept(turns, principal, new_turn(agent, "hello"))).turn
    said = replace(first, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
    await turns.finish(principal, said, ending(thread="t1"))
    for other in ({"agent": "guide"}, {"backend": "guide"}):
        new = replace(new_turn(agent, "more", first.session_id), **other)
        meanwhile = await accept(turns, principal, new)
        assert meanwhile.state == {}
        said = replace(meanwhile.turn, status=TurnStatus.COMPLETED, reply="I", end_reason=EndReason.ANSWERED)
        await turns.finish(principal, said, ending())
        following = await accept(turns, principal, new_turn(agent, "and?", first.session_id))
        assert following.state == {}
        said = replace(following.turn, status=TurnStatus.COMPLETED, reply="so", end_reason=EndReason.ANSWERED)
        await turns.finish(principal, said, ending(thread="t2"))


async def test_a_failure_without_a_word_is_kept_with_no_message(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await accept(turns, principal, new_turn(agent, "hello"))).turn
    fault = TurnFault(BackendFault.RATE_LIMIT, "busy", "wait", retryable=True, retry_after=timedelta(seconds=7))
    failed = replace(running, status=TurnStatus.FAILED, end_reason=EndReason.FAULT, error=fault)
    ended = await turns.finish(principal, failed, ending())
    assert ended is not None
    assert ended == await turns.get(principal, running.id)
    assert ended.last_message_id == running.last_message_id
    assert await contents(database, principal, running) == ["hello"]


async def test_only_the_owner_of_the_lease_writes_the_end(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await accept(turns, principal, new_turn(agent, "hello"))).turn
    said = replace(running, status=TurnStatus.COMPLETED, reply="yes", end_reason=EndReason.ANSWERED)
    assert await turns.finish(principal, said, replace(ending(), lease_owner=ANOTHER)) is None
    assert await contents(database, principal, running) == ["hello"]
    assert await turns.finish(principal, said, ending()) is not None
    assert await turns.finish(principal, said, ending()) is None
    assert await contents(database, principal, running) == ["hello", "yes"]


async def test_only_the_owner_of_the_lease_renews_it(database: Database, principal: Principal, agent: AgentId) -> None:
    turns = PostgresTurns(database)
    lost = (await accept(turns, principal, new_turn(agent, "hello", lease=-1))).turn
    assert await turns.renew(ANOTHER, [lost.id], MINUTE) == ()
    assert [renewed.turn_id for renewed in await turns.renew(OWNER, [lost.id], MINUTE)] == [lost.id]
    assert (await turns.get(principal, lost.id)).status is TurnStatus.RUNNING


async def test_only_the_owner_of_the_lease_saves_what_was_said_so_far(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await accept(turns, principal, new_turn(agent, "hello"))).turn
    assert await turns.save_partial(principal, OWNER, running.id, "so far")
    assert not await turns.save_partial(principal, ANOTHER, running.id, "overwritten")
    assert (await turns.get(principal, running.id)).reply == "so far"


@pytest.mark.parametrize("mark", TurnMark)
async def test_nobody_marks_the_turn_of_another_user_or_organisation(
    mark: TurnMark, database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    running = (await accept(turns, principal, new_turn(agent, "hello"))).turn
    before = await marks(database, running)
    for stranger in (replace(principal, user_id=UserId(new_id())), replace(principal, org_id=OrgId(new_id()))):
        await turns.mark(stranger, running.id, mark)
        assert await marks(database, running) == before
    await turns.mark(principal, running.id, mark)
    assert await marks(database, running) != before


async def test_the_text_of_a_turn_that_nobody_runs_comes_before_the_next_message(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    lost = (await accept(turns, principal, new_turn(agent, "first", lease=-1))).turn
    await turns.save_partial(principal, OWNER, lost.id, "so far")
    following = await accept(turns, principal, new_turn(agent, "second", lost.session_id))
    assert await contents(database, principal, lost) == ["first", "so far", "second"]
    settled = await turns.get(principal, lost.id)
    assert settled.status is TurnStatus.INTERRUPTED
    assert following.previous_message_id == settled.last_message_id


async def test_a_repeated_message_joins_the_latest_of_the_turns_whose_callers_went_away(
    database: Database, principal: Principal, agent: AgentId
) -> None:
    turns = PostgresTurns(database)
    same = new_turn(agent, "hello")
    left: list[TurnId] = []
    for key in ("one", "two"):  # with keys of their own, they are two turns
        turn = (await accept(turns, principal, replace(same, id=TurnId(new_id()), idempotency_key=key))).turn
        await turns.mark(principal, turn.id, TurnMark.CALLER_GONE)
        left.append(turn.id)
    joined = await turns.accept(principal, replace(same, id=TurnId(new_id())))
    assert isinstance(joined, Joined)
    assert joined.turn.id == left[-1]


async def test_defaults_are_the_sessions_and_the_organisations_and_nobody_elses(
    database: Database, database_urls: DatabaseUrls, principal: Principal, agent: AgentId
) -> None:
    sessions, stranger = PostgresSessions(database), Principal(UserId(new_id()), principal.org_id, principal.role)
    turn = (await accept(PostgresTurns(database), principal, new_turn(agent, "hello"))).turn
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
