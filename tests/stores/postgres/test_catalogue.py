"""The catalogue in Postgres: what is declared is written once, and what others wrote stays."""

import asyncio
import json
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.base.money import Prices, Tier
from agentapi_mcp.core.audit.models import AuditAction, AuditEvent, AuditOutcome
from agentapi_mcp.core.catalogue.models import AgentDeclaration, CatalogueFile, ModelDeclaration
from agentapi_mcp.stores.postgres.catalogue import PostgresCatalogue
from agentapi_mcp.stores.postgres.database import Database
from tests.support.catalogues import declared

SECRET = "sk-or-v1-do-not-tell"  # noqa: S105  # the test looks for it everywhere


def file(*agents: AgentDeclaration) -> CatalogueFile:
    return CatalogueFile(agents, sha256=str(hash(repr(agents))))


PRICED = ModelDeclaration(
    name="small",
    model_id="vendor/small-1",
    provider="vendor",
    display_name="Small",
    description="The small one.",
    context_window=8192,
    max_output_tokens=1024,
    prices=Prices(
        input=Decimal("0.1"),
        output=Decimal(3),
        cache_write=Decimal("0.125"),
        cache_write_1h=Decimal("0.2"),
        reasoning=Decimal(4),
        tiers=(
            Tier(above=100, input=Decimal("0.2"), output=Decimal(6)),
            Tier(above=200, input=Decimal("0.4"), output=Decimal(9), cached_input=Decimal("0.01")),
        ),
        source="vendor.example",
        on=date(2026, 7, 2),
    ),
)


def removal() -> AuditEvent:
    return AuditEvent(
        id=new_id(), at=SystemClock().now(), action=AuditAction.AGENT_REMOVED, outcome=AuditOutcome.OK, details={}
    )


async def config_of(database: Database, name: str) -> object:
    async with database.as_system("look at a row") as connection:
        return json.loads(await connection.fetchval("SELECT config::text FROM public.agents WHERE name = $1", name))


async def test_what_is_declared_is_read_back(database: Database) -> None:
    store = PostgresCatalogue(database)
    agent = AgentDeclaration(
        name="house",
        backend="openai",
        description="Ours.",
        instructions="Be brief.",
        default_model="small",
        models=(PRICED, replace(PRICED, name="off", enabled=False, prices=Prices(), context_window=None)),
    )
    assert await store.write(file(agent, declared("bare", backend="guide")))
    bare, house = (await store.load()).agents
    assert (bare.name, bare.backend, bare.description, bare.models) == ("bare", "guide", "", ())
    assert (house.backend, house.description, house.enabled, house.means) == ("openai", "Ours.", True, None)
    assert (house.instructions, house.default_model) == ("Be brief.", "small")
    off, small = house.models
    assert (off.name, off.enabled, off.context_window, off.prices) == ("off", False, None, Prices())
    assert (small.model_id, small.provider, small.display_name) == ("vendor/small-1", "vendor", "Small")
    assert (small.description, small.context_window, small.max_output_tokens) == ("The small one.", 8192, 1024)
    assert small.prices == PRICED.prices


async def test_a_hash_is_written_once(database: Database) -> None:
    store = PostgresCatalogue(database)
    first = file(declared("house", "small"))
    assert await store.write(first)
    assert not await store.write(first)
    assert await store.write(file(declared("house", "small", "large")))
    (row,) = (await store.load()).agents
    assert [model.name for model in row.models] == ["large", "small"]


async def test_an_agent_that_vanished_is_written_again(database: Database) -> None:
    store = PostgresCatalogue(database)
    first = file(declared("house", "small"))
    await store.write(first)
    async with database.as_system("delete behind the program's back") as connection:
        await connection.execute("DELETE FROM public.agents")
    assert await store.write(first)
    assert [row.name for row in (await store.load()).agents] == ["house"]


async def test_processes_that_start_together_write_once(database: Database) -> None:
    same = file(declared("house", "small"))
    async with asyncio.TaskGroup() as group:
        writes = [group.create_task(PostgresCatalogue(database).write(same)) for _ in range(4)]
    assert sorted(write.result() for write in writes) == [False, False, False, True]


async def test_ids_survive_another_writing(database: Database) -> None:
    store = PostgresCatalogue(database)
    await store.write(file(declared("house", "small")))
    (before,) = (await store.load()).agents
    await store.write(file(replace(declared("house", "small"), description="Changed.")))
    (after,) = (await store.load()).agents
    assert (after.id, after.models[0].id, after.description) == (before.id, before.models[0].id, "Changed.")


async def test_our_vanished_models_are_disabled_and_those_of_others_left_alone(database: Database) -> None:
    store = PostgresCatalogue(database)
    await store.write(file(declared("house", "small", "large")))
    async with database.as_system("write as another program would") as connection:
        await connection.execute(
            "INSERT INTO public.models (agent_id, name, model_id, provider, config) "
            "SELECT id, 'theirs', 'theirs', 'them', '[1]' FROM public.agents"
        )
        await connection.execute(
            "INSERT INTO public.agents (name, type, config) VALUES ('foreign', 'custom', '{\"agent\": \"house\"}')"
        )
    await store.write(file(declared("house", "small")))
    foreign, house = (await store.load()).agents
    assert {model.name: model.enabled for model in house.models} == {"small": True, "large": False, "theirs": True}
    assert (foreign.enabled, foreign.means) == (True, "house")
    await store.write(file(declared("house", "small", "large")))
    _, house = (await store.load()).agents
    assert all(model.enabled for model in house.models)


async def test_an_agent_that_the_file_no_longer_names_stays(database: Database) -> None:
    store = PostgresCatalogue(database)
    await store.write(file(declared("house"), declared("other")))
    await store.write(file(declared("house")))
    assert [(row.name, row.enabled) for row in (await store.load()).agents] == [("house", True), ("other", True)]


async def test_foreign_keys_of_a_config_survive(database: Database) -> None:
    store = PostgresCatalogue(database)
    async with database.as_system("write as another program would") as connection:
        await connection.execute(
            "INSERT INTO public.agents (name, type, config) VALUES "
            '(\'house\', \'ccrouter\', \'{"location": "us-central1", "default_model": "old"}\'), '
            "('odd', 'custom', '[1, 2]')"
        )
    await store.write(file(replace(declared("house", "small"), instructions="Be brief."), declared("odd")))
    assert await config_of(database, "house") == {
        "location": "us-central1",
        "declared": True,
        "instructions": "Be brief.",
    }
    assert await config_of(database, "odd") == {"previous": [1, 2], "declared": True}


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        "null",
        "[]",
        '"text"',
        "7",
        '{"agent": 7, "instructions": {}, "default_model": null, "context_window": "many", "prices": []}',
        '{"context_window": true, "max_output_tokens": -1, "prices": {"input": "free", "output": true, "on": "today"}}',
        '{"context_window": 1.5, "prices": {"input": "NaN", "output": -3, "cached_input": {}, "source": 3, "on": 3}}',
        '{"prices": {"input": [], "output": "Infinity"}}',
    ],
)
async def test_any_config_of_others_can_be_loaded(database: Database, config: str) -> None:
    async with database.as_system("write as another program would") as connection:
        await connection.execute(
            "INSERT INTO public.agents (name, type, config) VALUES ('odd', 'custom', $1::text::jsonb)", config
        )
        await connection.execute(
            "INSERT INTO public.models (agent_id, name, model_id, provider, config) "
            "SELECT id, 'm', 'm', 'p', $1::text::jsonb FROM public.agents",
            config,
        )
    (row,) = (await PostgresCatalogue(database).load()).agents
    assert (row.means, row.instructions, row.default_model) == (None, None, None)
    assert (row.models[0].context_window, row.models[0].max_output_tokens) == (None, None)
    assert row.models[0].prices == Prices()


async def test_prices_of_others_are_read_as_numbers_or_text(database: Database) -> None:
    async with database.as_system("write as another program would") as connection:
        await connection.execute("INSERT INTO public.agents (name, type) VALUES ('odd', 'custom')")
        await connection.execute(
            "INSERT INTO public.models (agent_id, name, model_id, provider, config) "
            'SELECT id, \'m\', \'m\', \'p\', \'{"prices": {"input": 2.5, "output": "10", "cached_input": 0, '
            '"cache_write": 1e7, "reasoning": -1, "tiers": [{"above": 9, "input": 3}, 7, {"above": "few"}]}}\' '
            "FROM public.agents"
        )
    (row,) = (await PostgresCatalogue(database).load()).agents
    assert row.models[0].prices == Prices(
        input=Decimal("2.5"),
        output=Decimal(10),
        cached_input=Decimal(0),
        tiers=(Tier(above=9, input=Decimal(3)),),
    )


async def test_no_option_reaches_a_row_and_no_secret_of_a_row_is_loaded(database: Database) -> None:
    store = PostgresCatalogue(database)
    async with database.as_system("write as another program would") as connection:
        await connection.execute(
            "INSERT INTO public.agents (name, type, config) VALUES ('theirs', 'custom', $1::text::jsonb)",
            json.dumps({"api_key": SECRET, "base_url": f"https://{SECRET}@example.org", "env": {"KEY": SECRET}}),
        )
    await store.write(file(replace(declared("house", "small"), options={"api_key": SECRET}, missing=("X is not set",))))
    rows = (await store.load()).agents
    assert SECRET not in repr(rows)
    async with database.as_system("look for the secret") as connection:
        house = await connection.fetchval("SELECT a::text FROM public.agents a WHERE a.name = 'house'")
        models = await connection.fetchval("SELECT string_agg(m::text, '') FROM public.models m")
        files = await connection.fetchval("SELECT string_agg(f::text, '') FROM agentapi.catalogue_files f")
    assert SECRET not in house + models + files
    assert "is not set" not in house


async def test_a_removed_agent_is_marked_until_a_file_that_declares_it_is_read_again(database: Database) -> None:
    store, house = PostgresCatalogue(database), file(declared("house", "small"))
    await store.write(house)
    async with database.as_system("write as another program would") as connection:
        await connection.execute(
            "INSERT INTO public.agents (name, type, config) VALUES ('odd', 'x', '[1]'), ('plain', 'x', '{}')"
        )
    for row in (await store.load()).agents:
        await store.remove(row.id, removal())
    rows = (await store.load()).agents
    assert [(row.name, row.removed, len(row.models)) for row in rows] == [
        ("house", True, 1),
        ("odd", True, 0),
        ("plain", True, 0),
    ]
    assert await config_of(database, "odd") == {"previous": [1], "removed": True}
    assert await store.write(house)  # although its hash is that of the rows
    assert [row.name for row in (await store.load()).agents if row.removed] == ["odd", "plain"]


async def test_a_removal_that_cannot_be_recorded_is_none(database: Database) -> None:
    store = PostgresCatalogue(database)
    await store.write(file(declared("kept")))
    (row,) = [row for row in (await store.load()).agents if row.name == "kept"]
    with pytest.raises(StoreError):
        await store.remove(row.id, replace(removal(), details={"agent": "\x00"}))
    assert [each.removed for each in (await store.load()).agents if each.name == "kept"] == [False]


async def test_rows_tell_which_file_was_written_last(database: Database) -> None:
    store, one, two = PostgresCatalogue(database), file(declared("house", "small")), file(declared("other"))
    assert (await store.load()).sha256 == ""
    for each in (one, two):
        await store.write(each)
        assert (await store.load()).sha256 == each.sha256
    assert [model.declared for row in (await store.load()).agents for model in row.models] == [True]
