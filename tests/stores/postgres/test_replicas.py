"""The servers on a database, in its table."""

from datetime import timedelta

from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.catalogue.models import Replica
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.replicas import PostgresReplicas
from tests.support.supabase import APP, Project

MINUTES_3 = timedelta(minutes=3)


def replica(version: str = "0.1.0") -> Replica:
    """Make one."""
    return Replica(id=new_id(), version=version, configuration="a" * 64)


async def age(database: Database, one: Replica, by: timedelta) -> None:
    """Let a replica have been noted so long ago."""
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE agentapi.replicas SET seen_at = seen_at - $2::interval WHERE id = $1", one.id, by
        )


async def test_the_others_are_those_that_were_noted_lately(database: Database) -> None:
    store, one, two, killed = PostgresReplicas(database), replica(), replica("0.2.0"), replica()
    assert await store.note(one, MINUTES_3) == ()
    assert await store.note(killed, MINUTES_3) == (one,)
    await age(database, killed, timedelta(minutes=4))
    assert await store.note(two, MINUTES_3) == (one,)
    assert await store.note(one, MINUTES_3) == (two,)
    await age(database, two, timedelta(minutes=4))
    await store.note(two, MINUTES_3)  # noted again
    assert await store.note(one, MINUTES_3) == (two,)
    await store.leave(two.id)
    assert await store.note(one, MINUTES_3) == ()


async def test_a_change_of_configuration_is_noted(database: Database) -> None:
    store, one, two = PostgresReplicas(database), replica(), replica()
    await store.note(two, MINUTES_3)
    changed = Replica(id=two.id, version="0.3.0", configuration="b" * 64)
    await store.note(changed, MINUTES_3)
    assert await store.note(one, MINUTES_3) == (changed,)


async def test_what_was_killed_is_forgotten_after_a_day_even_by_one_that_slept_as_long(database: Database) -> None:
    store, asleep, killed = PostgresReplicas(database), replica(), replica()
    for each in (asleep, killed):
        await store.note(each, MINUTES_3)
        await age(database, each, timedelta(days=2))
    await store.note(asleep, MINUTES_3)
    async with database.as_system("test") as connection:
        assert [row["id"] for row in await connection.fetch("SELECT id FROM agentapi.replicas")] == [asleep.id]


async def test_only_the_program_reads_or_writes_replicas(deployed: Project) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    rights = (
        "SELECT has_any_column_privilege('{0}', 'agentapi.replicas', 'SELECT, INSERT, UPDATE, REFERENCES') "
        "OR has_table_privilege('{0}', 'agentapi.replicas', 'DELETE, TRUNCATE, TRIGGER')"
    )
    for role in ("anon", "authenticated", "service_role", "agentapi_writer"):
        assert await deployed.value(rights.format(role)) is False, role
    assert await deployed.value(rights.format("agentapi_system")) is True
