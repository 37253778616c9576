"""The limits of an organisation: the operator sets them, its administrators see them, and a refusal says the same."""

import json

import pytest

from agentapi_mcp.base.errors import InvalidRequestError, LimitExceededError, NotFoundError
from agentapi_mcp.base.ids import OrgId, new_id
from agentapi_mcp.core.audit.models import AuditAction, AuditFilter
from agentapi_mcp.core.catalogue.models import OrganizationLimit
from agentapi_mcp.core.catalogue.policy import LIMITS
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.services import Services
from tests.support.worlds import SLOW, World, asks

LARGEST = 2**53 - 1


async def limit(server: Services, name: str, most: int | None) -> None:
    """Set a limit of the caller's own organisation."""
    await server.organizations.limit(server.principal, server.principal.org_id, name, most)


async def shown(server: Services) -> dict[Resource, OrganizationLimit]:
    """Return what administrators see."""
    return {each.resource: each for each in (await server.organizations.get(server.principal)).limits}


async def write(world: World, settings: str) -> None:
    """Write settings as any other program may."""
    await world.owner.execute("UPDATE public.organizations SET settings = $1::text::jsonb", settings)


async def written(world: World) -> object:
    """Read the settings of the only organisation."""
    return json.loads(await world.owner.fetchval("SELECT settings::text FROM public.organizations"))


@pytest.mark.parametrize("name", LIMITS)
async def test_administrators_see_of_each_limit_what_a_refusal_says(name: str, world: World) -> None:
    server, resource = await world.program(), LIMITS[name]
    assert await shown(server) == {
        each: OrganizationLimit(resource=each, most=None, used=0) for each in LIMITS.values()
    }
    await server.turns.start(server.principal, asks(SLOW))
    used = (await shown(server))[resource].used
    assert used > 0
    await limit(server, name, used)
    assert (await shown(server))[resource] == OrganizationLimit(resource=resource, most=used, used=used)
    with pytest.raises(LimitExceededError, match=f"Your organisation has {used:,} of {used:,} "):
        await server.turns.start(server.principal, asks(SLOW))
    await limit(server, name, None)
    await server.turns.start(server.principal, asks(SLOW))
    world.steps.release(100)


@pytest.mark.parametrize(
    ("number", "most"),
    [("0", 0), ("-1", 0), ("-1e5000", 0), ("1.5", 1), ("1e3", 1000), ("1e5000", LARGEST), ("9" * 5000, LARGEST)],
)
async def test_a_number_of_any_size_is_shown_as_what_it_allows(number: str, most: int, world: World) -> None:
    server = await world.program()
    await write(world, f'{{"limits": {{"max_conversations": {number}}}}}')
    assert (await shown(server))[Resource.CONVERSATIONS] == OrganizationLimit(
        resource=Resource.CONVERSATIONS, most=most, used=0
    )


@pytest.mark.parametrize(
    ("limits", "readable"),
    [
        ("null", True),
        ("{}", True),
        ('{"max_conversations": null}', True),
        ('{"max_conversations": "2"}', False),
        ('{"max_conversations": true}', False),
        ('{"max_conversations": [2]}', False),
        ('"two"', False),
        ("[]", False),
        ("2", False),
    ],
)
async def test_what_is_no_number_is_shown_to_bound_nothing(limits: str, world: World, *, readable: bool) -> None:
    server = await world.program()
    await write(world, f'{{"limits": {limits}}}')
    assert (await shown(server))[Resource.CONVERSATIONS] == OrganizationLimit(
        resource=Resource.CONVERSATIONS, most=None, used=0, readable=readable
    )


@pytest.mark.parametrize("limits", ['"two"', "[1]", "7", "null", "{}"])
async def test_a_limit_is_set_and_removed_beside_all_that_others_wrote(limits: str, world: World) -> None:
    server = await world.program()
    await write(world, f'{{"theme": "dark", "limits": {limits}}}')
    await limit(server, "max_conversations", 50)
    await limit(server, "max_running_turns", 0)
    assert await written(world) == {"theme": "dark", "limits": {"max_conversations": 50, "max_running_turns": 0}}
    await limit(server, "max_conversations", LARGEST)
    await limit(server, "max_running_turns", None)
    assert await written(world) == {"theme": "dark", "limits": {"max_conversations": LARGEST}}
    await limit(server, "max_conversations", None)
    await limit(server, "max_conversations", None)
    assert await written(world) == {"theme": "dark"}


async def test_other_keys_of_limits_stay(world: World) -> None:
    server = await world.program()
    await write(world, '{"limits": {"max_agents": 5, "max_conversations": "two"}}')
    await limit(server, "max_conversations", 2)
    assert await written(world) == {"limits": {"max_agents": 5, "max_conversations": 2}}
    await limit(server, "max_conversations", None)
    assert await written(world) == {"limits": {"max_agents": 5}}


@pytest.mark.parametrize("settings", ["null", "[]", "7"])
async def test_settings_that_are_no_object_begin_anew_with_the_limit(settings: str, world: World) -> None:
    server = await world.program()
    await write(world, settings)
    await limit(server, "max_conversations", 2)
    assert await written(world) == {"limits": {"max_conversations": 2}}


@pytest.mark.parametrize(
    ("name", "most", "words"),
    [
        ("max_conversations", -1, "must be a whole number between 0 and 9007199254740991"),
        ("max_conversations", LARGEST + 1, "must be a whole number between 0 and 9007199254740991"),
        ("max_agents", 1, "no limit 'max_agents'; there are: max_conversations, max_running_turns, max_running_bytes"),
        ("default_agent", None, "no limit 'default_agent'"),
    ],
)
async def test_a_limit_that_cannot_be_meant_is_refused_and_changes_nothing(
    name: str, most: int | None, words: str, world: World
) -> None:
    server = await world.program()
    before = await written(world)
    with pytest.raises(InvalidRequestError, match=words):
        await limit(server, name, most)
    assert await written(world) == before


async def test_administrators_cannot_set_a_limit_as_a_setting(world: World) -> None:
    server = await world.program()
    before = await written(world)
    for value in (5, None):
        with pytest.raises(InvalidRequestError, match="only the operator of this server sets"):
            await server.organizations.change(server.principal, {"max_conversations": value})
    with pytest.raises(InvalidRequestError, match="There is no setting"):
        await server.organizations.change(server.principal, {"limits": {"max_conversations": 5}})
    assert await written(world) == before


async def test_the_operator_limits_an_organisation_of_others_and_its_administrators_read_who_did(world: World) -> None:
    server = await world.program()
    operator, other = server.principal, OrgId(new_id())
    await world.owner.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'Other')", other)
    await server.organizations.limit(operator, other, "max_running_turns", 3)
    rows = await world.owner.fetch("SELECT id, settings::text FROM public.organizations")
    assert {row["id"]: json.loads(row["settings"]) for row in rows} == {
        operator.org_id: {},
        other: {"limits": {"max_running_turns": 3}},
    }
    changed = AuditFilter(action=AuditAction.ORGANIZATION_CHANGED)
    assert (await server.audit.list_(operator, changed)).items == ()
    event = await world.owner.fetchrow(
        "SELECT user_id, target_id, details ->> 'settings' AS settings FROM agentapi.audit_events "
        "WHERE org_id = $1 AND action = 'organization_changed'",
        other,
    )
    assert event is not None
    assert tuple(event) == (operator.user_id, str(other), "limits.max_running_turns")


async def test_an_organisation_that_is_not_there_has_no_limits(world: World) -> None:
    server = await world.program()
    with pytest.raises(NotFoundError, match="There is no such organisation"):
        await server.organizations.limit(server.principal, OrgId(new_id()), "max_conversations", 1)
