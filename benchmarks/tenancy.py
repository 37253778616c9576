"""What row-level security costs: 1,000 organisations with 1,000,000 messages, with the policies and without them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
from benchmarks.results import Result, milliseconds
from benchmarks.servers import Bench, median, new_home, now

from agentapi_mcp.base.ids import OrgId, SessionId, UserId
from agentapi_mcp.core.conversations.session_facts import NOT_ARCHIVED
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.stores.postgres.sessions import PostgresSessions

_ROUNDS, _CALLS = 40, 10
_GUARDED = ("public.chat_sessions", "public.chat_messages", "agentapi.turns", "public.organization_members")
# Ten users in each of 1,000 organisations, a session of a hundred messages for each; one user has a hundred sessions.
_SEED = """
CREATE TEMP TABLE u AS SELECT gen_random_uuid() AS id, n FROM generate_series(1, 10000) n;
CREATE TEMP TABLE o AS SELECT gen_random_uuid() AS id, n FROM generate_series(0, 999) n;
INSERT INTO public.profiles (id) SELECT id FROM u;
INSERT INTO public.organizations (id, name) SELECT id, 'organisation ' || n FROM o;
INSERT INTO public.organization_members (organization_id, user_id, role)
SELECT o.id, u.id, 'member' FROM u JOIN o ON o.n = u.n % 1000;
INSERT INTO public.chat_sessions (id, user_id, org_id, title, created_at, last_message_at)
SELECT gen_random_uuid(), u.id, o.id, 'session of ' || u.n, at, at + interval '100 minutes'
  FROM u JOIN o ON o.n = u.n % 1000, LATERAL (SELECT now() - interval '300 days' + u.n * interval '10 minutes' AS at) t
 WHERE u.n <= 9900;
INSERT INTO public.chat_sessions (id, user_id, org_id, title, created_at, last_message_at)
SELECT gen_random_uuid(), u.id, o.id, 'session ' || k, at, at + interval '100 minutes'
  FROM u JOIN o ON o.n = u.n % 1000, generate_series(1, 100) k,
       LATERAL (SELECT now() - interval '9 days' + k * interval '2 hours' AS at) t
 WHERE u.n = 10000;
INSERT INTO public.chat_messages (session_id, role, content, metadata, created_at)
SELECT s.id, CASE WHEN m % 2 = 1 THEN 'user' ELSE 'assistant' END,
       'message ' || m || repeat(' and so on', 20), '{}', s.created_at + m * interval '1 minute'
  FROM public.chat_sessions s, generate_series(1, 100) m;
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, assistant_message_id, agent_name, backend,
    model_name, fingerprint, status, end_reason, created_at, ended_at, delivered_at)
SELECT gen_random_uuid(), s.id, s.user_id, s.org_id, u.id, a.id, 'bench', 'openai', 'instant', uuid_send(u.id),
       'completed', 'answered', u.created_at, a.created_at, a.created_at
  FROM public.chat_sessions s
  JOIN public.chat_messages u ON u.session_id = s.id AND u.role = 'user'
  JOIN public.chat_messages a ON a.session_id = s.id AND a.created_at = u.created_at + interval '1 minute';
VACUUM ANALYZE
"""
_VIEW = "agentapi.own_message_counts"
_BARE = """
SELECT s.id AS session_id, (SELECT count(*) FROM public.chat_messages c WHERE c.session_id = s.id) AS messages
  FROM public.chat_sessions s
"""
_WHO = """
SELECT s.user_id, s.org_id, array_agg(s.id ORDER BY s.created_at DESC) AS sessions
  FROM public.chat_sessions s GROUP BY 1, 2 HAVING count(*) = 100
"""


async def tenancy(bench: Bench) -> list[Result]:
    """Read as one user by turns with the policies on and off: the statements of a call alone, without the program."""
    took: dict[str, dict[bool, list[float]]] = {"list_sessions": {}, "get_transcript": {}}
    async with AsyncExitStack() as stack:
        home = stack.enter_context(new_home(bench.provider))
        postgres = EmbeddedPostgres(home, linger=timedelta(seconds=1))
        urls = await asyncio.to_thread(postgres.ensure)
        stack.push_async_callback(asyncio.to_thread, postgres.release)
        await migrate(urls.owner_url, program=VERSION, grant_to="agentapi_app")
        owner = await asyncpg.connect(urls.owner_url, command_timeout=1800)
        stack.push_async_callback(owner.close)
        for statement in _SEED.split(";\n"):
            await owner.execute(statement)
        database = await stack.enter_async_context(open_database(RemoteServer(urls.app_url), PoolOptions(max_size=1)))
        view = await owner.fetchval("SELECT pg_get_viewdef($1::regclass)", _VIEW)
        reading = await _reading(owner, PostgresSessions(database))
        for number in range(_ROUNDS * 2):
            guarded = number % 2 == 0
            for table in _GUARDED:
                await owner.execute(f"ALTER TABLE {table} {'ENABLE' if guarded else 'DISABLE'} ROW LEVEL SECURITY")
            said = view if guarded else _BARE
            await owner.execute(f"CREATE OR REPLACE VIEW {_VIEW} WITH (security_barrier = {guarded}) AS {said}")
            for name, read in reading.items():
                await read(0)  # the plan is made anew
                for call in range(_CALLS):
                    started = now()
                    await read(call)
                    took[name].setdefault(guarded, []).append(now() - started)
    return [_compared(name, median(times[True]), median(times[False])) for name, times in took.items()]


async def _reading(
    owner: "asyncpg.Connection[asyncpg.Record]", sessions: PostgresSessions
) -> dict[str, Callable[[int], Awaitable[object]]]:
    row = await owner.fetchrow(_WHO)
    assert row is not None
    user, ids = Principal(UserId(row["user_id"]), OrgId(row["org_id"]), Role.MEMBER), list(row["sessions"])

    async def list_sessions(_call: int) -> object:
        return await sessions.list_(user, NOT_ARCHIVED, cursor=None, limit=50)

    async def get_transcript(call: int) -> object:
        session_id = SessionId(ids[call % len(ids)])
        return await sessions.messages(user, session_id, cursor=None, limit=500, max_bytes=1_000_000)

    return {"list_sessions": list_sessions, "get_transcript": get_transcript}


def _compared(name: str, guarded: float, bare: float) -> Result:
    ratio = guarded / bare
    measured = f"{ratio:.2f} × ({milliseconds(bare)} → {milliseconds(guarded)})"
    what = f"the statements of `{name}` among 1,000 organisations and 1,000,000 messages, with policies against without"
    return Result(what, measured, "≤ 1.3 ×", ratio <= 1.3)
