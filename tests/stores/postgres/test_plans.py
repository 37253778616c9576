"""The plan of every hot statement, with its policies: none reads a table that grows with other people's use."""

import json
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.ids import AgentId, OrgId, SessionId, TaskId, UserId
from agentapi_mcp.core.conversations.models import AcceptedTurn, NewTask, Sent, TurnStatus
from agentapi_mcp.core.conversations.session_facts import (
    NOT_ARCHIVED,
    NewInteraction,
    Rating,
    Report,
    SessionFilter,
    Tagging,
)
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.facts import PostgresFacts
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.positions import read_position
from agentapi_mcp.stores.postgres.sessions import LIST, PostgresSessions
from agentapi_mcp.stores.postgres.tasks import PostgresTasks
from agentapi_mcp.stores.postgres.turns import RECENT, PostgresTurns
from tests.support.new_turns import ending, new_turn
from tests.support.supabase import APP, Project

pytestmark = pytest.mark.timeout(180)  # tens of thousands of rows are filled in
GROWING = ["chat_sessions", "chat_messages", "turns", "idempotency_keys", "tasks", "session_facts", "turn_ratings"]
AGENT = AgentId(UUID("5b6f4f0a-8b2e-4a9c-8d7e-6f11e0a1d4c3"))
# Three hundred organisations of a user each with ten sessions, and one user with two thousand; five turns in each.
MANY = f"""
ALTER TABLE public.profiles DROP CONSTRAINT profiles_id_fkey;
INSERT INTO public.agents (id, name, type) VALUES ('{AGENT}', 'guide', 'guide');
CREATE TEMP TABLE who AS
SELECT gen_random_uuid() AS user_id, gen_random_uuid() AS org_id, n FROM generate_series(1, 300) n;
INSERT INTO public.organizations (id, slug, name) SELECT org_id, 'o' || n, 'o' || n FROM who;
INSERT INTO public.profiles (id, email) SELECT user_id, n || '@many.example' FROM who;
INSERT INTO public.organization_members (organization_id, user_id) SELECT org_id, user_id FROM who;
INSERT INTO public.chat_sessions (id, user_id, org_id, created_at, last_message_at)
SELECT gen_random_uuid(), user_id, org_id, at, at
  FROM who, generate_series(1, CASE n WHEN 1 THEN 2000 ELSE 10 END) k,
       LATERAL (SELECT now() - k * interval '1 hour' AS at) t;
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, assistant_message_id, agent_name, backend,
    fingerprint, status, end_reason, created_at, ended_at, delivered_at)
SELECT gen_random_uuid(), s.id, s.user_id, s.org_id, gen_random_uuid(), gen_random_uuid(), 'a', 'openai',
       uuid_send(gen_random_uuid()), 'completed', 'answered', at, at, at
  FROM public.chat_sessions s, generate_series(1, 5) k, LATERAL (SELECT s.created_at + k * interval '1 second' AS at) t;
INSERT INTO public.chat_messages (id, session_id, role, content, created_at)
SELECT user_message_id, session_id, 'user', 'x', created_at FROM agentapi.turns UNION ALL
SELECT assistant_message_id, session_id, 'assistant', 'y', created_at + interval '1 ms' FROM agentapi.turns;
INSERT INTO agentapi.idempotency_keys (user_id, org_id, key, fingerprint, turn_id, expires_at)
SELECT user_id, org_id, id::text, fingerprint, id, now() + interval '1 day' FROM agentapi.turns;
INSERT INTO agentapi.tasks (id, turn_id, user_id, org_id, joined, has_key, in_session, created_at, expires_at)
SELECT id::text, id, user_id, org_id, false, false, false, created_at, now() + interval '1 day'
  FROM (SELECT *, row_number() OVER (PARTITION BY user_id) AS n FROM agentapi.turns) t WHERE n <= 1000;
INSERT INTO agentapi.session_facts (session_id, user_id, org_id, tags)
SELECT id, user_id, org_id, ARRAY['a tag'] FROM public.chat_sessions;
INSERT INTO agentapi.turn_ratings (turn_id, user_id, org_id, rating)
SELECT id, user_id, org_id, 3 FROM (SELECT *, row_number() OVER (PARTITION BY user_id) AS n FROM agentapi.turns) t
 WHERE n <= 1000;
ANALYZE
"""  # noqa: S608  # an id of the tests
# One user with twenty sessions, whose messages of a megabyte no compression makes smaller.
LARGE = 20
LARGE_MESSAGES = f"""
ALTER TABLE public.profiles DROP CONSTRAINT profiles_id_fkey;
CREATE TEMP TABLE who AS SELECT gen_random_uuid() AS user_id, gen_random_uuid() AS org_id;
INSERT INTO public.organizations (id, slug, name) SELECT org_id, 'large', 'large' FROM who;
INSERT INTO public.profiles (id, email) SELECT user_id, 'large@many.example' FROM who;
INSERT INTO public.organization_members (organization_id, user_id) SELECT org_id, user_id FROM who;
INSERT INTO public.chat_sessions (id, user_id, org_id, title)
SELECT gen_random_uuid(), user_id, org_id, 'large' FROM who, generate_series(1, {LARGE});
INSERT INTO public.chat_messages (id, session_id, role, content)
SELECT gen_random_uuid(), s.id, 'user', c.content
  FROM public.chat_sessions s, LATERAL (SELECT string_agg(md5(s.id::text || k), '') AS content
                                          FROM generate_series(1, 31250) k) c WHERE s.title = 'large';
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, assistant_message_id, agent_name, backend,
    fingerprint, status, end_reason, ended_at)
SELECT gen_random_uuid(), s.id, s.user_id, s.org_id, m.id, m.id, 'a', 'openai', uuid_send(m.id), 'completed',
       'answered', now()
  FROM public.chat_sessions s JOIN public.chat_messages m ON m.session_id = s.id WHERE s.title = 'large';
ANALYZE
"""  # noqa: S608  # a number of the tests
SCANS = """
SELECT relname, seq_scan::int AS scans, (seq_tup_read + idx_tup_fetch)::int AS rows
  FROM pg_stat_all_tables WHERE relname = ANY($1) ORDER BY relname
"""


async def use(database: Database, user: Principal, session_id: SessionId) -> None:
    """Do once whatever a turn, its followers and its readers do."""
    turns, sessions, tasks = PostgresTurns(database), PostgresSessions(database), PostgresTasks(database)
    for new in (
        new_turn(AGENT, "a new one"),
        new_turn(AGENT, "with a key", key="k1"),
        new_turn(AGENT, "with a key", key="k1"),
        new_turn(AGENT, "more", session_id),
    ):
        accepted = await turns.begin(user, new)
        if not isinstance(accepted, AcceptedTurn):
            continue
        turn = await turns.get(user, accepted.turn.id)
        task_id, sent = TaskId(str(turn.id)), Sent(has_key=False, in_session=True)
        waiting = NewTask(id=task_id, turn_id=turn.id, joined=False, sent=sent, lifetime=timedelta(hours=1))
        await tasks.create(user, waiting)
        for _ in range(8):
            await tasks.find(user, [task_id])
        await tasks.conclude(user, task_id, "{}")
        await sessions.defaults(user, turn.session_id)
        await sessions.history(user, turn.session_id, turn.id, 100_000)
        await turns.renew(new.lease_owner, [turn.id], timedelta(seconds=15))
        await turns.save_partial(user, new.lease_owner, turn.id, "so far")
        await turns.request_cancel(user, turn.id)
        await turns.find(user, turn.id)
        await turns.finish(user, replace(turn, status=TurnStatus.COMPLETED, reply="done"), ending(new.lease_owner))
        await turns.mark_delivered([turn.id])
    await turns.recent(user, 20)
    await turns.recent(user, 20, only_open=True)
    for _ in range(8):  # also once the server has settled on a plan for all arguments
        first = await sessions.list_(user, NOT_ARCHIVED, cursor=None, limit=50)
        await sessions.list_(user, NOT_ARCHIVED, cursor=first.next_cursor, limit=50)
        await sessions.messages(user, session_id, cursor=None, limit=500, max_bytes=1_000_000)
        await sessions.get(user, session_id)
        await sessions.list_(user, SessionFilter(tag="a tag", archived=True), cursor=None, limit=50)
    await say(database, user, session_id)
    await sessions.rename(user, session_id, "another title")
    await sessions.delete(user, session_id)


async def say(database: Database, user: Principal, session_id: SessionId) -> None:
    """Say once whatever can be said of a session, and of its newest turn."""
    facts = PostgresFacts(database)
    [turn] = await PostgresTurns(database).recent(user, 1)
    await facts.rate_session(user, session_id, Rating(rating=5), clear=False)
    await facts.rate_turn(user, turn.id, Rating(rating=5), clear=False)
    await facts.tag(user, session_id, Tagging(add=("more",)), 50)
    await facts.archive(user, session_id, archived=True)
    for _ in range(2):
        await facts.record(user, NewInteraction(title="elsewhere", report=Report(external_id="one")))


async def test_no_statement_reads_a_table_that_grows_with_the_use_of_others(project: Project) -> None:
    await migrate(project.owner, program="0.1.0", grant_to=APP)
    await project.run(MANY)
    admin = await asyncpg.connect(project.admin)
    try:
        for sessions in (10, 2000):
            row = await admin.fetchrow(
                "SELECT user_id, org_id, min(id::text) AS id FROM public.chat_sessions "
                "GROUP BY 1, 2 HAVING count(*) = $1 LIMIT 1",
                sessions,
            )
            assert row is not None
            user = Principal(UserId(row["user_id"]), OrgId(row["org_id"]), Role.MEMBER)
            before = {kind["relname"]: (kind["scans"], kind["rows"]) for kind in await counted(admin)}
            async with open_database(RemoteServer(project.app), PoolOptions(max_size=1)) as database:
                await use(database, user, SessionId(UUID(row["id"])))
            after = {kind["relname"]: (kind["scans"], kind["rows"]) for kind in await counted(admin)}
            for name in GROWING:
                assert after[name][0] == before[name][0], f"{name} was scanned"
                assert 0 < after[name][1] - before[name][1] < 20_000, name
    finally:
        await admin.close()


async def test_no_list_reads_whole_messages(project: Project) -> None:
    await migrate(project.owner, program="0.1.0", grant_to=APP)
    await project.run(LARGE_MESSAGES)
    admin = await asyncpg.connect(project.admin)
    row = await admin.fetchrow("SELECT user_id, org_id FROM public.chat_sessions WHERE title = 'large' LIMIT 1")
    assert row is not None
    user = Principal(UserId(row["user_id"]), OrgId(row["org_id"]), Role.MEMBER)
    own = (user.user_id, user.org_id)
    search = (LIST, *own, *read_position(None, "", user), None, "nothing has this", 51, False, None)
    async with open_database(RemoteServer(project.app), PoolOptions(max_size=1)) as database:
        kept = await blocks(database, user, *search)
        # Summed up, since EXPLAIN does not read what it would only send.
        listed = f"SELECT sum(length(message) + length(reply)) FROM ({RECENT}) AS listed"  # noqa: S608  # made of literals
        turns = await blocks(database, user, listed, *own, 200, 501)
        await admin.execute("DELETE FROM agentapi.session_openings")
        of_other_programs = await blocks(database, user, *search)
        whole = await blocks(database, user, "SELECT sum(length(content)) FROM public.chat_messages")
    await admin.close()
    assert whole > LARGE * 120  # what is looked for can be seen: a megabyte has 122 blocks of 8 KiB
    assert kept < LARGE * 12
    assert of_other_programs < LARGE * 25
    assert turns < LARGE * 40


async def blocks(database: Database, user: Principal, sql: str, *args: object) -> int:
    """Count the blocks of tables and indexes that a statement of a user reads, from memory or from the disk."""
    async with database.as_principal(user, plan_once=True) as connection:
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"
        await connection.fetchval(explain, *args)  # type: ignore[arg-type]  # reads the catalogue of what it needs
        plan = json.loads(await connection.fetchval(explain, *args))[0]["Plan"]  # type: ignore[arg-type]  # as above
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


async def counted(admin: "asyncpg.Connection[asyncpg.Record]") -> list[asyncpg.Record]:
    """Read what was counted, once every other connection has ended and told what it did."""
    while await admin.fetchval("SELECT count(*) > 1 FROM pg_stat_activity WHERE datname = current_database()"):
        pass
    await admin.execute("SELECT pg_stat_force_next_flush(); SELECT pg_stat_clear_snapshot()")
    return await admin.fetch(SCANS, GROWING)
