"""What a search costs: one user with 3,000 sessions whose first messages are a megabyte each, and another one."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import asyncpg
from benchmarks.results import Result, milliseconds
from benchmarks.servers import Bench, median, new_home, now

from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.conversations.session_facts import SessionFilter
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.openings import keep_openings
from agentapi_mcp.stores.postgres.personal_tokens import PostgresPersonalTokens
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.stores.postgres.sessions import PostgresSessions

_SEARCHES, _AT_ONCE, _LOOKUPS = 20, 25, 50
_BOUND = 0.05
# The texts are not compressed, so that they take as much room as they can: 3 GB.
_SEED = """
CREATE TEMP TABLE who AS SELECT gen_random_uuid() AS user_id, gen_random_uuid() AS org_id;
CREATE TEMP TABLE said AS SELECT string_agg(md5(k::text), '') AS text FROM generate_series(1, 31250) k;
INSERT INTO public.profiles (id) SELECT user_id FROM who;
INSERT INTO public.organizations (id, name) SELECT org_id, 'large' FROM who;
INSERT INTO public.organization_members (organization_id, user_id) SELECT org_id, user_id FROM who;
INSERT INTO public.chat_sessions (id, user_id, org_id, title, created_at)
SELECT gen_random_uuid(), user_id, org_id, 'session ' || n, now() - n * interval '1 minute'
  FROM who, generate_series(1, 3000) n;
ALTER TABLE public.chat_messages ALTER content SET STORAGE EXTERNAL;
INSERT INTO public.chat_messages (session_id, role, content)
SELECT s.id, 'user', d.text FROM public.chat_sessions s, said d;
VACUUM ANALYZE
"""


async def searching(bench: Bench) -> list[Result]:
    """Search for what is nowhere: before and after the openings are kept, and all the time beside another user."""
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
        row = await owner.fetchrow("SELECT user_id, org_id FROM who")
        assert row is not None
        user = Principal(UserId(row["user_id"]), OrgId(row["org_id"]), Role.MEMBER)
        database = await stack.enter_async_context(open_database(RemoteServer(urls.app_url), PoolOptions(max_size=20)))
        missing = await _search_time(database, user)
        await keep_openings(database)
        kept = await _search_time(database, user)
        beside = await _lookup_time_beside(database, user)
    many = "one search by a user with 3,000 sessions, whose first messages are 1 MB each"
    return [
        Result(many, milliseconds(kept), f"≤ {milliseconds(_BOUND)}", kept <= _BOUND),
        Result(f"{many}, with no opening kept yet", milliseconds(missing), "≤ 2 s", missing <= 2),
        Result(f"a token is looked up while {_AT_ONCE} such searches run", milliseconds(beside), "≤ 2 s", beside <= 2),
    ]


async def _search_time(database: Database, user: Principal) -> float:
    times: list[float] = []
    for _ in range(_SEARCHES):
        started = now()
        await _search(database, user)
        times.append(now() - started)
    return median(times)


async def _search(database: Database, user: Principal) -> None:
    page = await PostgresSessions(database).list_(user, SessionFilter(query=str(uuid4())), cursor=None, limit=50)
    assert not page.items


async def _lookup_time_beside(database: Database, user: Principal) -> float:
    """Return the longest time of a look-up while the user searches as often as they can."""

    async def search_on() -> None:
        while True:
            await _search(database, user)

    times: list[float] = []
    async with asyncio.TaskGroup() as group:
        searches = [group.create_task(search_on()) for _ in range(_AT_ONCE)]
        for _ in range(_LOOKUPS):
            started = now()
            await PostgresPersonalTokens(database).find([uuid4().bytes * 2])
            times.append(now() - started)
        for search in searches:
            search.cancel()
    return max(times)
