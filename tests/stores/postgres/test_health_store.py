"""Health in Postgres: failures in a row, and what the turns themselves tell."""

import asyncio
from uuid import UUID, uuid4

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.core.catalogue.models import AgentHealth
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.health import PostgresHealth

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
