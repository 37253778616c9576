"""How usage is read in an organisation that has most of all rows: no statement of a member reads those of others."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.core.usage.models import UsageGroup
from agentapi_mcp.core.usage.usage import midnight, split
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.usage import statement_of
from tests.conftest import DatabaseUrls

NOW = datetime(2026, 11, 30, 15, 30, tzinfo=UTC)
PERSONS, DAYS = 100, 60
# Of each person some entries a day in one organisation, and half as many in others.
FILL = f"""
WITH who AS (SELECT p, md5('p' || p)::uuid AS person FROM generate_series(1, {PERSONS}) p)
INSERT INTO agentapi.ledger (at, kind, org_id, person, session_id, turn_id, agent, backend, model, provider,
    input_tokens, output_tokens, cost_nanos, unpriced, billing_may_go_on, latency_ms, outcome)
SELECT timestamptz '2026-10-02Z' + d * interval '1 day' + n * interval '1 hour', 'turn',
       CASE WHEN n < 4 THEN $1::uuid ELSE md5('o' || p)::uuid END, person, md5(p || '-' || d)::uuid, gen_random_uuid(),
       'agent-' || n, 'openai', 'm', 'p', 10, 5, 1000, 0, false, 1000 + n, 'completed'
  FROM who, generate_series(0, {DAYS - 1}) d, generate_series(1, 6) n
"""  # noqa: S608  # numbers of the tests
TABLES = (
    *("ledger", "usage_daily", "usage_daily_of_organizations", "usage_daily_of_persons"),
    "usage_agents_of_persons",
)
SUM_UP = """
INSERT INTO agentapi.usage_daily (org_id, day, person, agent, model, provider, interaction_type, turns, errors,
    unpriced, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_nanos, latency_ms, latency, last_at,
    reported, reported_input_tokens, reported_output_tokens, reported_nanos)
SELECT org_id, (at AT TIME ZONE 'UTC')::date, person, agent, model, provider, '', count(*), 0, 0, sum(input_tokens),
       sum(output_tokens), 0, 0, sum(cost_nanos), sum(latency_ms), array_fill(1, ARRAY[24]), max(at), 0, 0, 0, 0
  FROM agentapi.ledger WHERE agent LIKE 'agent-_' AND model = 'm' AND provider = 'p' GROUP BY 1, 2, 3, 4, 5, 6
"""


ALL_VISIBLE = "SELECT relallvisible >= relpages FROM pg_class WHERE oid = 'agentapi.usage_daily'::regclass"


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all nodes of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def rows_read(plan: dict[str, Any], table: str | None = None) -> float:
    """Return how many rows of the ledger and of the days, or of one table, were looked at."""
    read = 0.0
    for node in nodes(plan):
        name = str(node.get("Relation Name", ""))
        if name == table or (table is None and name.startswith(("ledger", "usage_daily"))):
            looked_at = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            read += (looked_at + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
    return read


@pytest.mark.timeout(300)  # it fills 36,000 rows of the ledger, once for all groups
async def test_who_asks_for_their_own_usage_reads_no_rows_of_others(own_database: DatabaseUrls) -> None:
    org, ann = OrgId(new_id()), UserId(new_id())
    owner = await asyncpg.connect(own_database.owner)
    try:
        await owner.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'o')", org)
        await owner.execute("INSERT INTO public.profiles (id) VALUES ($1)", ann)
        await owner.execute(
            "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, 'owner')",
            org,
            ann,
        )
        await owner.execute("INSERT INTO agentapi.people (user_id, person) VALUES ($1, md5('p1')::uuid)", ann)
        for month in ("2026-10-15", "2026-11-15"):
            await owner.execute(f"SELECT agentapi.keep_partitions('{month}')")
        await owner.execute(FILL, org)
        await owner.execute(SUM_UP)
        for table in TABLES:
            await owner.execute(f"VACUUM ANALYZE agentapi.{table}")
        # Whoever else looks at the rows meanwhile, as autovacuum does, keeps it from seeing that all may be seen.
        async with asyncio.timeout(60):
            while not await owner.fetchval(ALL_VISIBLE):
                await owner.execute("VACUUM agentapi.usage_daily")
    finally:
        await owner.close()
    async with open_database(RemoteServer(own_database.app), PoolOptions(max_size=1)) as database:
        for by in (None, *UsageGroup):
            for until in (NOW, midnight(NOW)):
                await check_plans(database, Principal(ann, org), by, until)


async def check_plans(database: Database, ann: Principal, by: UsageGroup | None, until: datetime) -> None:
    """Look at the plans of a member's usage, of an owner's own, and of the organisation's."""
    span = split(NOW - timedelta(days=DAYS), until, NOW)
    mine, most = DAYS * 3, PERSONS * DAYS * 3
    # Of all persons together, each day has as many rows as agents; of each whatever the agents, one.
    whole_days = most if by is UsageGroup.SESSION else PERSONS * DAYS if by is UsageGroup.MEMBER else mine
    for role, whole in ((Role.MEMBER, False), (Role.OWNER, False), (Role.OWNER, True)):
        sql, arguments = statement_of(ann.org_id, span, by, whole=whole, limit=100)
        async with database.as_principal(replace(ann, role=role)) as connection:
            found = await connection.fetchval("EXPLAIN (ANALYZE, FORMAT JSON) " + sql, *arguments)
        plan = json.loads(found)[0]["Plan"]
        if whole:
            assert rows_read(plan) <= whole_days * 1.02 + rows_read(plan, "usage_daily")
            # Of each person and day there are as many rows as agents. Which there were until now is known for each;
            # in a period that has ended, an index alone tells them apart.
            assert rows_read(plan, "usage_agents_of_persons") <= PERSONS * 3
            scans = [node["Node Type"] for node in nodes(plan) if node.get("Relation Name") == "usage_daily"]
            assert scans == (["Index Only Scan"] if by is UsageGroup.MEMBER and not span.is_open else [])
            continue
        assert mine * 0.9 <= rows_read(plan) <= mine * 2 + 10
        scans = [node for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
        assert sum(map(rows_read, scans)) == 0  # a month in which there is nothing yet may be looked through
