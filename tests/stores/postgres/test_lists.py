"""Lists and searches: what they find, how little of the messages they read, and how long they may take."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from agentapi_mcp.base.errors import StoreSlowError
from agentapi_mcp.base.ids import AgentId, SessionId, new_id
from agentapi_mcp.core.audit.models import AuditFilter
from agentapi_mcp.core.clients.models import ClientState
from agentapi_mcp.core.conversations.models import LISTED_CHARACTERS, AcceptedTurn
from agentapi_mcp.core.conversations.session_facts import SessionFilter
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.audit import PostgresAudit
from agentapi_mcp.stores.postgres.clients import PostgresClients
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.members import PostgresMembers
from agentapi_mcp.stores.postgres.openings import keep_openings
from agentapi_mcp.stores.postgres.positions import read_position
from agentapi_mcp.stores.postgres.sessions import LIST, PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.support.members import new_member
from tests.support.new_turns import new_turn

AGENT = AgentId(new_id())
LISTED_TABLES = (
    "public.chat_sessions",
    "public.organization_members",
    "public.mcp_sessions",
    "agentapi.turns",
    "agentapi.audit_events",
)
LISTS: dict[str, Callable[[Database, Principal], Awaitable[object]]] = {
    "sessions": lambda database, ann: PostgresSessions(database).list_(
        ann, SessionFilter(query="anything"), cursor=None, limit=50
    ),
    "turns": lambda database, ann: PostgresTurns(database).recent(ann, 50),
    "audit log": lambda database, ann: PostgresAudit(database).list_(
        ann, AuditFilter(), include_unowned=False, cursor=None, limit=50
    ),
    "clients": lambda database, ann: PostgresClients(database).list_(ann),
    "members": lambda database, ann: PostgresMembers(database).list_(ann, datetime.now(UTC)),
}


@pytest.fixture
async def ann(database: Database) -> Principal:
    return await new_member(database)


@pytest.fixture
async def owner(database_urls: DatabaseUrls) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Return a connection of the owner of the tables, who sees all rows."""
    connection = await asyncpg.connect(database_urls.owner)
    await connection.execute("SET row_security = off")
    yield connection
    await connection.close()


async def found(database: Database, who: Principal, query: str) -> list[SessionId]:
    page = await PostgresSessions(database).list_(who, SessionFilter(query=query), cursor=None, limit=50)
    return [session.id for session in page.items]


async def said(database: Database, who: Principal, text: str, session_id: SessionId | None = None) -> SessionId:
    """Begin a turn with a message, of a session whose title says nothing of it."""
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO public.agents (id, name, type) VALUES ($1, 'guide', 'guide') ON CONFLICT DO NOTHING", AGENT
        )
    new = replace(new_turn(AGENT, text, session_id), title="about nothing")
    begun = await PostgresTurns(database).begin(who, new)
    assert isinstance(begun, AcceptedTurn)
    return begun.turn.session_id


async def written(owner: "asyncpg.Connection[asyncpg.Record]", who: Principal, *texts: str) -> SessionId:
    """Write a session with messages as another program does."""
    session_id = SessionId(new_id())
    await owner.execute(
        "INSERT INTO public.chat_sessions (id, user_id, org_id) VALUES ($1, $2, $3)",
        session_id,
        who.user_id,
        who.org_id,
    )
    await owner.executemany(
        "INSERT INTO public.chat_messages (session_id, role, content, created_at) "
        "VALUES ($1, 'user', $2, now() + $3::integer * interval '1 second')",
        [(session_id, text, number) for number, text in enumerate(texts)],
    )
    return session_id


async def kept(owner: "asyncpg.Connection[asyncpg.Record]", session_id: SessionId) -> str | None:
    return await owner.fetchval("SELECT opening FROM agentapi.session_openings WHERE session_id = $1", session_id)


async def test_a_search_finds_titles_and_openings_in_any_case(
    ann: Principal, database: Database, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    session_id = await said(database, ann, "How do I water a Cactus?")
    assert await kept(owner, session_id) == "How do I water a Cactus?"
    for query in ("cACTUS", "about NOTHING"):
        assert await found(database, ann, query) == [session_id]
    assert await found(database, ann, "tulip") == []


async def test_a_search_reads_no_more_of_a_message_than_its_opening(
    ann: Principal, database: Database, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    text = f"{'a' * (LISTED_CHARACTERS - 6)}middle end"
    own, of_others = await said(database, ann, text), await written(owner, ann, text)
    assert await kept(owner, own) == text[:LISTED_CHARACTERS]
    assert set(await found(database, ann, "amiddle")) == {own, of_others}
    assert await found(database, ann, "middle e") == []


async def test_sessions_of_other_programs_are_found_without_a_kept_opening(
    ann: Principal, database: Database, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    session_id = await written(owner, ann, "a tulip", "and a rose")
    assert await kept(owner, session_id) is None
    assert await found(database, ann, "tulip") == [session_id]
    assert await found(database, ann, "rose") == []


async def test_the_next_turn_of_a_session_keeps_the_opening_that_it_lacks(
    ann: Principal, database: Database, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    session_id = await written(owner, ann, "a tulip")
    await said(database, ann, "and a rose", session_id)
    assert await kept(owner, session_id) == "a tulip"
    assert await found(database, ann, "tulip") == [session_id]
    assert await found(database, ann, "rose") == []


@pytest.mark.parametrize("batch", [1, 2, 3, 1000])
async def test_a_job_keeps_the_openings_that_are_missing(
    batch: int, ann: Principal, database: Database, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    lacking = [await written(owner, ann, f"tulip {number}", "rose") for number in range(3)]
    empty, own = await written(owner, ann), await said(database, ann, "a cactus")
    assert await keep_openings(database, batch) == 3
    assert [await kept(owner, each) for each in (*lacking, empty, own)] == [
        *(f"tulip {number}" for number in range(3)),
        None,
        "a cactus",
    ]
    assert await keep_openings(database, batch) == 0


async def test_the_opening_of_a_message_goes_with_it(
    ann: Principal, database: Database, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    session_id = await said(database, ann, "a tulip")
    await owner.execute("DELETE FROM public.chat_messages WHERE session_id = $1", session_id)
    assert await kept(owner, session_id) is None
    assert await found(database, ann, "tulip") == []


async def test_nobody_finds_a_session_of_somebody_else(ann: Principal, database: Database) -> None:
    bob = await new_member(database, ann)
    await said(database, ann, "a tulip")
    assert await found(database, bob, "tulip") == []
    async with database.as_principal(bob) as connection:
        assert await connection.fetchval("SELECT count(*) FROM agentapi.own_openings") == 0
    async with database.as_principal(ann) as connection:
        assert await connection.fetchval("SELECT count(*) FROM agentapi.own_openings") == 1


async def test_a_list_of_turns_has_the_beginnings_of_their_texts(ann: Principal, database: Database) -> None:
    await said(database, ann, "m" * 2000)
    turns = PostgresTurns(database)
    (turn,) = await turns.recent(ann, 50)
    assert await turns.save_partial(ann, (await turns.find(ann, turn.id)).owner or new_id(), turn.id, "r" * 2000)
    (listed,) = await turns.recent(ann, 50)
    assert (listed.message, listed.reply) == ("m" * (LISTED_CHARACTERS + 1), "r" * (LISTED_CHARACTERS + 1))
    whole = await turns.get(ann, turn.id)
    assert (len(whole.message), len(whole.reply)) == (2000, 2000)


async def test_a_plan_that_is_kept_scans_no_table_however_small_it_was(own_database: DatabaseUrls) -> None:
    owner = await asyncpg.connect(own_database.owner)
    await owner.execute("VACUUM (ANALYZE) agentapi.session_openings")  # now it is known to be empty
    await owner.close()
    async with open_database(RemoteServer(own_database.app), PoolOptions(max_size=1)) as database:
        ann = await new_member(database)
        at, id_ = read_position(None, "", ann)
        async with database.as_principal(ann, plan_once=True) as connection:
            wanted = (ann.user_id, ann.org_id, at, id_, "guide", "tulip", 51, False, None)
            plan = await connection.fetch(f"EXPLAIN {LIST}", *wanted)
    lines = "\n".join(row[0] for row in plan)
    assert "agentapi_sessions_order" in lines
    assert "session_openings_pkey" in lines
    assert "Seq Scan" not in lines


# --- how long a list may take


def test_a_list_may_take_two_seconds() -> None:
    assert PoolOptions().list_timeout == timedelta(seconds=2)


@pytest.mark.parametrize("what", LISTS)
async def test_a_list_that_takes_too_long_is_ended_and_other_statements_keep_their_time(
    what: str, ann: Principal, database_urls: DatabaseUrls, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    options = PoolOptions(list_timeout=timedelta(seconds=0.1))
    async with open_database(RemoteServer(database_urls.app), options) as database, asyncio.TaskGroup() as group:
        held = owner.transaction()
        await held.start()
        await owner.execute(f"LOCK TABLE {', '.join(LISTED_TABLES)} IN ACCESS EXCLUSIVE MODE")
        other = group.create_task(PostgresClients(database).find(ann, "desk"))
        while not await owner.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            pass
        with pytest.raises(StoreSlowError, match=r"longer than 0\.1 s .* ask for less"):
            await LISTS[what](database, ann)
        assert not other.done()
        await held.rollback()
    assert other.result() == ClientState({})
