"""Health in Postgres: failures in a row, and what the turns themselves tell."""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.core.catalogue.models import AgentHealth, AgentTraffic
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.health import TRAFFIC, PostgresHealth
from tests.conftest import DatabaseUrls

WELL = HealthCheck(status=HealthStatus.HEALTHY)
DOWN = HealthCheck(status=HealthStatus.UNHEALTHY, error="no answer")
USER = UUID(int=77)


async def add_agent(database: Database, name: str) -> AgentId:
    async with database.as_system("add an agent") as connection:
        return AgentId(
            await connection.fetchval("INSERT INTO public.agents (name, type) VALUES ($1, 'custom') RETURNING id", name)
        )


async def test_a_seeded_row_that_nobody_checked_is_unknown(database: Database) -> None:
    agent = await add_agent(database, "droid")
    async with database.as_system("seed as it is deployed") as connection:
        await connection.execute("INSERT INTO public.agent_health (agent_id, status) VALUES ($1, 'healthy')", agent)
    assert await PostgresHealth(database).all_() == {agent: AgentHealth()}


async def test_failures_in_a_row_degrade_and_one_success_heals(database: Database) -> None:
    agent = await add_agent(database, "droid")
    store = PostgresHealth(database)
    assert (await store.record(agent, WELL)).status is HealthStatus.HEALTHY
    seen = [await store.record(agent, DOWN) for _ in range(4)]
    assert [health.status for health in seen] == [
        HealthStatus.DEGRADED,
        HealthStatus.DEGRADED,
        HealthStatus.UNHEALTHY,
        HealthStatus.UNHEALTHY,
    ]
    assert [health.consecutive_failures for health in seen] == [1, 2, 3, 4]
    assert {health.last_error for health in seen} == {"no answer"}
    healed = await store.record(agent, WELL)
    assert (healed.status, healed.consecutive_failures, healed.last_error) == (HealthStatus.HEALTHY, 0, None)
    assert await store.all_() == {agent: healed}


async def test_the_first_record_may_be_a_failure(database: Database) -> None:
    agent = await add_agent(database, "droid")
    health = await PostgresHealth(database).record(agent, DOWN)
    assert (health.status, health.consecutive_failures) == (HealthStatus.DEGRADED, 1)
    assert health.checked_at is not None


async def test_a_degraded_check_never_adds_up_to_unhealthy(database: Database) -> None:
    agent = await add_agent(database, "droid")
    store = PostgresHealth(database)
    slow = HealthCheck(status=HealthStatus.DEGRADED, error="little credit left")
    seen = [await store.record(agent, slow) for _ in range(4)]
    assert {(health.status, health.consecutive_failures) for health in seen} == {(HealthStatus.DEGRADED, 1)}


async def test_failures_counted_by_many_processes_all_count(database: Database) -> None:
    agent = await add_agent(database, "droid")
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(PostgresHealth(database).record(agent, DOWN))
    assert (await PostgresHealth(database).all_())[agent].consecutive_failures == 5


async def test_a_measurement_of_a_deleted_agent_is_no_error(database: Database) -> None:
    assert await PostgresHealth(database).record(AgentId(uuid4()), DOWN) == AgentHealth()
    assert await PostgresHealth(database).all_() == {}


async def test_an_error_that_postgres_cannot_hold_is_kept_as_far_as_it_can(database: Database) -> None:
    agent = await add_agent(database, "droid")
    check = HealthCheck(status=HealthStatus.UNHEALTHY, error="a\x00b" + "c" * 5000)
    health = await PostgresHealth(database).record(agent, check)
    assert health.last_error == "ab" + "c" * 498


async def test_a_status_of_others_is_unknown(database: Database) -> None:
    agent = await add_agent(database, "droid")
    async with database.as_system("write as another program would") as connection:
        await connection.execute(
            "INSERT INTO public.agent_health (agent_id, status, last_check) VALUES ($1, 'fine', now())", agent
        )
    assert (await PostgresHealth(database).all_())[agent].status is HealthStatus.UNKNOWN


async def add_turns(
    connection: Connection, agent: str, status: str, count: int, *, age: timedelta = timedelta(0)
) -> None:
    """Add turns whose latencies are 1, 2, 3 … ms and whose costs are as many cents; the newest is the quickest."""
    await connection.execute(
        "INSERT INTO public.profiles (id) VALUES ($1) ON CONFLICT DO NOTHING",
        USER,
    )
    session = await connection.fetchval("INSERT INTO public.chat_sessions (user_id) VALUES ($1) RETURNING id", USER)
    await connection.execute(
        "INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_name, backend, "
        "fingerprint, status, created_at, ended_at, latency_ms, cost_usd) "
        "SELECT gen_random_uuid(), $1, $2, $2, gen_random_uuid(), $3, 'openai', '\\x00', $4, "
        "now() - $6::interval - n * interval '1 second', now(), n, n * 0.01 FROM generate_series(1, $5::int) AS n",
        session,
        USER,
        agent,
        status,
        count,
        age,
    )


async def test_traffic_is_the_last_200_answers_of_seven_days(database: Database) -> None:
    for name in ("droid", "quiet", "broken"):
        await add_agent(database, name)
    async with database.as_system("add turns") as connection:
        await add_turns(connection, "droid", "completed", 300)
        await add_turns(connection, "droid", "failed", 3)
        await add_turns(connection, "droid", "failed", 5, age=timedelta(minutes=5))
        await add_turns(connection, "droid", "cancelled", 9)
        await add_turns(connection, "quiet", "completed", 5, age=timedelta(days=8))
        await add_turns(connection, "broken", "failed", 2)
    assert await PostgresHealth(database).traffic() == {
        "droid": AgentTraffic(
            turns=203,
            failures=3,
            latency_p50=timedelta(milliseconds=100),
            latency_p95=timedelta(milliseconds=190),
            cost_p50_usd=Decimal("1.00"),
        ),
        "broken": AgentTraffic(turns=2, failures=2),
    }


def _rows_read(node: dict[str, Any]) -> Iterator[float]:
    yield node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    for child in node.get("Plans", []):
        yield from _rows_read(child)


async def test_summing_up_many_turns_reads_few_of_them(database: Database, database_urls: DatabaseUrls) -> None:
    await add_agent(database, "droid")
    async with database.as_system("add turns") as connection:
        await add_turns(connection, "droid", "completed", 20_000)
    owner = await asyncpg.connect(database_urls.owner)
    await owner.execute("ANALYZE agentapi.turns")
    await owner.close()
    async with database.as_system("look at the plan") as connection:
        plan = await connection.fetchval("EXPLAIN (ANALYZE, FORMAT JSON) " + TRAFFIC)
    assert max(_rows_read(json.loads(plan)[0]["Plan"])) <= 300


async def test_a_cost_that_nobody_told_is_unknown(database: Database) -> None:
    await add_agent(database, "droid")
    async with database.as_system("add turns") as connection:
        await add_turns(connection, "droid", "completed", 3)
        await connection.execute("UPDATE agentapi.turns SET cost_usd = NULL, latency_ms = NULL")
    assert await PostgresHealth(database).traffic() == {"droid": AgentTraffic(turns=3)}
