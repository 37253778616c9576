"""What usage costs to read: ten million entries of a year, half of them of one organisation."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from hashlib import md5
from uuid import UUID

import asyncpg
from benchmarks.results import Result, milliseconds
from benchmarks.servers import Bench, median, new_home, now

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.core.usage.models import UsageGroup, UsageQuery
from agentapi_mcp.core.usage.usage import Usage, midnight
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.stores.postgres.usage import PostgresUsage

_ROWS, _ASKED = 10_000_000, 15
_DAYS, _USERS = 365, 2000
# Half of the users are in the first of fifty organisations. What is not of the day before is as long ago as a year.
_WHO = """
INSERT INTO public.organizations (id, name) SELECT md5('o' || n)::uuid, 'o' || n FROM generate_series(0, 49) n;
INSERT INTO public.profiles (id) SELECT md5('u' || n)::uuid FROM generate_series(1, 2000) n;
INSERT INTO public.organization_members (organization_id, user_id, role)
SELECT md5('o' || CASE WHEN n <= 1000 THEN 0 ELSE 1 + n % 49 END)::uuid, md5('u' || n)::uuid,
       CASE n WHEN 1 THEN 'owner' ELSE 'member' END FROM generate_series(1, 2000) n;
INSERT INTO agentapi.people (user_id, person)
SELECT md5('u' || n)::uuid, md5('p' || n)::uuid FROM generate_series(1, 2000) n
"""
# Day by day, as entries come: of each user about fourteen, with two agents.
_DAY = """
INSERT INTO agentapi.ledger (at, kind, org_id, person, session_id, turn_id, agent, backend, model, model_used, provider,
    paid_by, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_nanos, unpriced, cost_source,
    billing_may_go_on, latency_ms, outcome)
SELECT $1::date AT TIME ZONE 'UTC' + random() * interval '23 hours 59 minutes', 'turn',
       md5('o' || CASE WHEN u <= 1000 THEN 0 ELSE 1 + u % 49 END)::uuid, md5('p' || u)::uuid, gen_random_uuid(),
       gen_random_uuid(), 'agent-' || (u + n % 2) % 12, 'openai', 'model-' || (u + n % 2) % 12, NULL,
       'provider-' || u % 5, 'server', 1000 + u, 200 + n, 100, 10, 77500 + u, 0, 'price list of 2026-11-01', false,
       (exp(random() * 6) * 100)::integer, CASE WHEN random() < 0.02 THEN 'failed' ELSE 'completed' END
  FROM generate_series(1, 2000) u, generate_series(1, $2::integer) n
"""
_SUM_UP = """
WITH counted AS (
    SELECT org_id, person, agent, model, provider, agentapi.latency_bucket(latency_ms) AS bucket, count(*) AS turns,
           count(*) FILTER (WHERE outcome = 'failed') AS errors, sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens, sum(cached_tokens) AS cached_tokens,
           sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nanos) AS cost_nanos, sum(latency_ms) AS latency_ms,
           max(at) AS last_at
      FROM agentapi.ledger
     WHERE at >= $1::date AT TIME ZONE 'UTC' AND at < ($1::date + 1) AT TIME ZONE 'UTC' GROUP BY 1, 2, 3, 4, 5, 6
)
INSERT INTO agentapi.usage_daily (org_id, day, person, agent, model, provider, interaction_type, turns, errors, unpriced,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_nanos, latency_ms, latency, last_at, reported,
    reported_input_tokens, reported_output_tokens, reported_nanos)
SELECT org_id, $1::date, person, agent, model, provider, '', sum(c.turns), sum(errors), 0, sum(input_tokens),
       sum(output_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost_nanos), sum(latency_ms),
       ARRAY(SELECT coalesce(sum(u.turns), 0)::integer
               FROM generate_series(1, 24) i
               LEFT JOIN unnest(array_agg(c.bucket), array_agg(c.turns)) AS u (bucket, turns) ON u.bucket = i
              GROUP BY i ORDER BY i),
       max(last_at), 0, 0, 0, 0
  FROM counted c GROUP BY 1, 3, 4, 5, 6
"""


async def ledger(bench: Bench) -> list[Result]:
    """Fill a ledger, and ask it as a member and as an administrator do."""
    async with AsyncExitStack() as stack:
        home = stack.enter_context(new_home(bench.provider))
        postgres = EmbeddedPostgres(home, linger=timedelta(seconds=1))
        urls = await asyncio.to_thread(postgres.ensure)
        stack.push_async_callback(asyncio.to_thread, postgres.release)
        await migrate(urls.owner_url, program=VERSION, grant_to="agentapi_app")
        await _fill(urls.owner_url)
        database = await stack.enter_async_context(open_database(RemoteServer(urls.app_url), PoolOptions(max_size=2)))
        usage = Usage(PostgresUsage(database), SystemClock())
        org = OrgId(_uuid("o0"))
        member = Principal(UserId(_uuid("u2")), org, Role.MEMBER)
        chief = Principal(UserId(_uuid("u1")), org, Role.OWNER)
        large = f"of the organisation that has half of {_ROWS:,} entries"
        results: list[Result] = []
        for what, principal, days, by, bound in (
            (f"a member's year, by day, {large}", member, 365, UsageGroup.DAY, 0.005),
            (f"an administrator's 30 days, by agent, {large}", chief, 30, UsageGroup.AGENT, 0.05),
            (f"an administrator's 30 days, by member, {large}", chief, 30, UsageGroup.MEMBER, 0.05),
            (f"an administrator's year, by agent, {large}", chief, 365, UsageGroup.AGENT, 0.5),
        ):
            taken = await _time(usage, principal, days, by)
            results.append(Result(what, milliseconds(taken), f"≤ {milliseconds(bound)}", taken <= bound))
    return results


def _uuid(name: str) -> UUID:
    return UUID(md5(name.encode(), usedforsecurity=False).hexdigest())


async def _fill(owner_url: str) -> None:
    owner = await asyncpg.connect(owner_url, command_timeout=1800)
    try:
        await owner.execute(_WHO)
        today = datetime.now(UTC).date()
        for months in range(13):
            await owner.execute("SELECT agentapi.keep_partitions(now() - make_interval(months => $1))", months)
        for day in range(_DAYS, 0, -1):
            at = today - timedelta(days=day)
            await owner.execute(_DAY, at, round(_ROWS / _DAYS / _USERS))
            await owner.execute(_SUM_UP, at)
        await owner.execute("VACUUM ANALYZE")
    finally:
        await owner.close()


async def _time(usage: Usage, principal: Principal, days: int, by: UsageGroup) -> float:
    """Return the median time of a question, all that the program does for it included."""
    since = midnight(datetime.now(UTC)) - timedelta(days=days)
    query = UsageQuery(since=since, by=by, whole=principal.role is Role.OWNER)
    times: list[float] = []
    for _ in range(_ASKED):
        started = now()
        report = await usage.report(principal, query)
        times.append(now() - started)
        assert report.total.turns
    return median(times)
