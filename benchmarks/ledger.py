"""What usage costs to read: ten million entries of a year, half of them of one organisation."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from hashlib import md5
from typing import LiteralString
from uuid import UUID

import asyncpg
from benchmarks.results import Result, milliseconds
from benchmarks.servers import Bench, median, new_home, now

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.core.usage.models import MOST_GROUPS, UsageGroup, UsageQuery
from agentapi_mcp.core.usage.usage import Usage, midnight, split
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.stores.postgres.usage import PostgresUsage, statement_of

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
# Month by month: of each user about fourteen entries a day, with two agents.
_ENTRIES = """
INSERT INTO agentapi.ledger (id, at, kind, org_id, person, session_id, turn_id, agent, backend, model, model_used,
    provider, paid_by, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_nanos, unpriced, cost_source,
    billing_may_go_on, latency_ms, outcome)
SELECT uuidv7(), d + random() * interval '23 hours 59 minutes', 'turn',
       md5('o' || CASE WHEN u <= 1000 THEN 0 ELSE 1 + u % 49 END)::uuid, md5('p' || u)::uuid, gen_random_uuid(),
       gen_random_uuid(), 'agent-' || (u + n % 2) % 12, 'openai', 'model-' || (u + n % 2) % 12, NULL,
       'provider-' || u % 5, 'server', 1000 + u, 200 + n, 100, 10, 77500 + u, 0, 'price list of 2026-11-01', false,
       (exp(random() * 6) * 100)::integer, CASE WHEN random() < 0.02 THEN 'failed' ELSE 'completed' END
  FROM generate_series($1::timestamptz, $2::timestamptz - interval '1 second', interval '1 day') d,
       generate_series(1, 2000) u, generate_series(1, $3::integer) n
"""
# The sums of the days of a month, as agentapi.enter makes them one by one (_check).
_SUM_UP = """
WITH entries AS (
    SELECT *, (at AT TIME ZONE 'UTC')::date AS day, agentapi.latency_bucket(latency_ms) AS bucket
      FROM agentapi.ledger WHERE at >= $1 AND at < $2
)
INSERT INTO agentapi.usage_daily (org_id, day, person, agent, model, provider, interaction_type, turns, errors,
    unpriced, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_nanos, latency_ms, latency, last_at,
    reported, reported_input_tokens, reported_output_tokens, reported_nanos)
SELECT org_id, day, person, agent, model, provider, '', count(*),
       count(*) FILTER (WHERE outcome = 'failed'), 0, sum(input_tokens), sum(output_tokens), sum(cached_tokens),
       sum(reasoning_tokens), sum(cost_nanos), sum(latency_ms), ARRAY[{buckets}], max(at), 0, 0, 0, 0
  FROM entries GROUP BY org_id, day, person, agent, model, provider ORDER BY day, random()
""".replace("{buckets}", ", ".join(f"count(*) FILTER (WHERE bucket = {n})::integer" for n in range(1, 25)))
_INDEXES = {"ledger_of_organization": "org_id, at", "ledger_of_person": "person, at", "ledger_of_turn": "turn_id"}
_ROLLED = {
    "usage_daily_of_organizations": "org_id, day, agent, model, provider, interaction_type",
    "usage_daily_of_persons": "org_id, day, person",
}
_SUMMED = (
    *("turns", "errors", "unpriced", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"),
    *("cost_nanos", "latency_ms", "latencies"),
    *("reported", "reported_input_tokens", "reported_output_tokens", "reported_nanos"),
)


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
            (f"an administrator's 30 days, by day, {large}", chief, 30, UsageGroup.DAY, 0.05),
            (f"an administrator's year, by agent, {large}", chief, 365, UsageGroup.AGENT, 0.5),
            (f"an administrator's year, by day, {large}", chief, 365, UsageGroup.DAY, 0.5),
            (f"an administrator's year, by member, {large}", chief, 365, UsageGroup.MEMBER, 0.5),
        ):
            span = split(midnight(datetime.now(UTC)) - timedelta(days=days), datetime.now(UTC), datetime.now(UTC))
            sql, arguments = statement_of(org, span, by, whole=principal is chief, limit=MOST_GROUPS)
            for name, taken in (
                (what, await _time(usage, principal, days, by)),
                (f"{what}: its statement in Postgres", await _time_statement(database, principal, sql, arguments)),
            ):
                results.append(Result(name, milliseconds(taken), f"≤ {milliseconds(bound)}", taken <= bound))
    return results


def _uuid(name: str) -> UUID:
    return UUID(md5(name.encode(), usedforsecurity=False).hexdigest())


async def _fill(owner_url: str) -> None:
    """Load what triggers would have written, in sets; what each trigger would write is compared for a few persons."""
    owner = await asyncpg.connect(owner_url, command_timeout=1800)
    try:
        await owner.execute(_WHO)
        await owner.execute("SET maintenance_work_mem = '256MB'; SET work_mem = '512MB'")
        today = midnight(datetime.now(UTC))
        for months in range(13):
            await owner.execute("SELECT agentapi.keep_partitions(now() - make_interval(months => $1))", months)
        for index in _INDEXES:
            await owner.execute(f"DROP INDEX agentapi.{index}")
        for begin, end in _months(today - timedelta(days=_DAYS), today):
            async with owner.transaction():
                # Emptied by the same transaction, it is filled without a log.
                await owner.execute(f"TRUNCATE agentapi.ledger_{begin:%Y_%m}")
                await owner.execute(_ENTRIES, begin, end, round(_ROWS / _DAYS / _USERS))
        for index, columns in _INDEXES.items():
            await owner.execute(f"CREATE INDEX {index} ON agentapi.ledger ({columns})")
        await owner.execute("ALTER TABLE agentapi.usage_daily DISABLE TRIGGER roll_up")
        for begin, end in _months(today - timedelta(days=_DAYS), today):
            await owner.execute(_SUM_UP, begin, end)
        for table, key in _ROLLED.items():
            # Those of a day together, in no order within it, as they come.
            await owner.execute(
                f"INSERT INTO agentapi.{table} ({key}, {', '.join(_SUMMED)}, last_at) "  # noqa: S608  # literals
                f"SELECT {key}, {', '.join(f'sum({name})' for name in _SUMMED)}, max(last_at) "
                f"FROM agentapi.usage_daily GROUP BY {key} ORDER BY day, random()"
            )
        await owner.execute(
            "INSERT INTO agentapi.usage_agents_of_persons (org_id, person, agent, last_day) "
            "SELECT org_id, person, agent, max(day) FROM agentapi.usage_daily GROUP BY 1, 2, 3 ORDER BY random()"
        )
        await owner.execute("ALTER TABLE agentapi.usage_daily ENABLE TRIGGER roll_up")
        await owner.execute("VACUUM ANALYZE")
        for person, days in ((1, 1), (2, 40), (1999, _DAYS)):
            await _check(owner, person, (today - timedelta(days=days)).date())
    finally:
        await owner.close()


def _months(begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    while begin < end:
        following = min((begin.replace(day=1) + timedelta(days=32)).replace(day=1), end)
        yield begin, following
        begin = following


async def _check(owner: "asyncpg.Connection[asyncpg.Record]", number: int, day: date) -> None:
    """Enter all entries of a person's day once more, one by one: the triggers must add as much as was loaded."""
    person = _uuid(f"p{number}")
    org = await owner.fetchval("SELECT org_id FROM agentapi.ledger WHERE person = $1 LIMIT 1", person)

    async def sums(table: str, whose: str = "") -> list[int]:
        columns = ", ".join(f"sum({name})" for name in _SUMMED)
        row = await owner.fetchrow(
            f"SELECT {columns} FROM agentapi.{table} WHERE org_id = $1 AND day = $2 {whose}",  # noqa: S608  # literals
            org,
            day,
        )
        assert row is not None
        return [int(value) for value in row]

    async def of_all() -> list[list[int]]:
        own = f"AND person = '{person}'"
        return [
            await sums("usage_daily", own),
            await sums("usage_daily_of_persons", own),
            await sums("usage_daily_of_organizations"),
        ]

    transaction = owner.transaction()
    await transaction.start()
    try:
        loaded = await of_all()
        await owner.execute(
            "SELECT agentapi.enter(jsonb_populate_record(l, jsonb_build_object('id', gen_random_uuid()))) "
            "FROM agentapi.ledger l WHERE person = $1 AND (at AT TIME ZONE 'UTC')::date = $2",
            person,
            day,
        )
        for before, after in zip(loaded, await of_all(), strict=True):
            assert [now - then for now, then in zip(after, before, strict=True)] == loaded[0]
    finally:
        await transaction.rollback()


async def _time(usage: Usage, principal: Principal, days: int, by: UsageGroup) -> float:
    """Return the median time of a question, all that the program does for it included."""
    since = midnight(datetime.now(UTC)) - timedelta(days=days)
    query = UsageQuery(since=since, by=by, whole=principal.role is Role.OWNER)
    times: list[float] = []
    await usage.report(principal, query)  # what the machine has in memory then stays there
    for _ in range(_ASKED):
        started = now()
        report = await usage.report(principal, query)
        times.append(now() - started)
        assert report.total.turns
    return median(times)


async def _time_statement(
    database: Database, principal: Principal, sql: LiteralString, arguments: tuple[object, ...]
) -> float:
    """Return the median time that Postgres takes to plan and to execute a statement, behind row-level security."""
    times: list[float] = []
    for _ in range(_ASKED):
        async with database.as_principal(principal) as connection:
            explained = await connection.fetchval("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + sql, *arguments)
        [plan] = json.loads(explained)
        times.append((plan["Planning Time"] + plan["Execution Time"]) / 1000)
    return median(times)
