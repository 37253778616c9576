"""A user's MCP clients and what is chosen in them, over a real database."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest
from typing_extensions import override

from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError, PermissionDeniedError
from agentapi_mcp.core.catalogue.catalogue import Catalogue
from agentapi_mcp.core.catalogue.models import (
    NO_PREFERENCES,
    AgentPreferences,
    CatalogueFile,
    ClientPreferences,
    Preferences,
)
from agentapi_mcp.core.catalogue.policy import CataloguePolicy
from agentapi_mcp.core.clients.models import TRIAL, ClientState
from agentapi_mcp.core.clients.preferences import Clients, read_preferences
from agentapi_mcp.core.identity.principals import Principal, TokenScope
from agentapi_mcp.stores.postgres.clients import MOST_CLIENTS, PostgresClients
from agentapi_mcp.stores.postgres.database import Database
from tests.support.catalogues import CheckedBackend, MemoryCatalogue, agent_row, declared
from tests.support.clocks import ManualClock
from tests.support.members import new_member


def catalogue_of_two(clock: ManualClock) -> Catalogue:
    return Catalogue(
        store=MemoryCatalogue((agent_row("droid"), agent_row("guide"))),
        file=CatalogueFile((declared("droid"), declared("guide")), "sha"),
        build=lambda _: CheckedBackend(),
        clock=clock,
    )


def clients(database: Database, clock: ManualClock | None = None) -> Clients:
    """Set up clients that may use the agents `droid` and `guide`."""
    clock = clock or ManualClock()
    return Clients(PostgresClients(database), CataloguePolicy(catalogue_of_two(clock)), clock)


async def stored_state(database: Database, owner: Principal, client: str) -> Mapping[str, object]:
    async with database.as_system("test") as connection:
        text = await connection.fetchval(
            "SELECT mcp_state::text FROM public.mcp_sessions WHERE session_id = $1",
            f"{owner.user_id}/{owner.org_id}/{client}",
        )
    return cast("dict[str, object]", json.loads(text))


async def test_a_change_keeps_what_others_wrote(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    droid = {"mcp_name": "droid", "type": "stdio", "command": "sh", "env": {"A": "b"}, "auth_type": "none"}
    await mine.record(ann, "desk", {"agents": [droid, {"mcp_name": "files"}, 7], "theme": "dark"})
    await mine.change(ann, "desk", "droid.enabled", "false")
    await mine.change(ann, "desk", "guide.enabled", "false")
    state = await stored_state(database, ann, "desk")
    off = {"mcp_name": "guide", "enabled": False}
    assert (state["agents"], state["theme"]) == ([{**droid, "enabled": False}, {"mcp_name": "files"}, 7, off], "dark")
    await mine.change(ann, "desk", "droid.enabled", None)
    await mine.change(ann, "desk", "guide.enabled", None)
    assert (await stored_state(database, ann, "desk"))["agents"] == [droid, {"mcp_name": "files"}, 7]


async def test_a_user_keeps_few_clients_and_those_with_preferences_longest(database: Database) -> None:
    ann, bob, mine = await new_member(database), await new_member(database), clients(database)
    async with database.as_system("test") as connection:  # as another program writes it, for accounts say
        await connection.execute(
            "INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at) "
            "VALUES ($1, 'account', '{}', '{\"sealed\": \"x\"}', now())",
            ann.user_id,
        )
    await mine.change(ann, "desk", "droid.enabled", "false")
    await mine.record(bob, "of bob", {"protocol": "2026-07-28"})
    for number in range(MOST_CLIENTS):
        await mine.record(ann, f"client {number:03}", {"protocol": "2026-07-28"})
    names = [each.client for each in await mine.list_(ann)]
    assert names == sorted([f"client {number:03}" for number in range(1, MOST_CLIENTS)] + ["desk"])
    assert [each.client for each in await mine.list_(bob)] == ["of bob"]
    async with database.as_system("test") as connection:
        assert await connection.fetchval(
            "SELECT oauth_data::text FROM public.mcp_sessions WHERE session_id = 'account'"
        )


async def test_what_is_no_list_of_agents_is_left_alone(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    await mine.record(ann, "desk", {"agents": {"droid": 1}})
    with pytest.raises(InvalidRequestError, match="mcp_state"):
        await mine.change(ann, "desk", "droid.enabled", "false")
    await mine.change(ann, "desk", "default_agent", "guide")
    state = await stored_state(database, ann, "desk")
    assert (state["agents"], state["defaults"]) == ({"droid": 1}, {"agent": "guide"})


async def test_a_choice_is_its_users_in_one_organisation_alone(database: Database) -> None:
    ann, eve, mine = await new_member(database), await new_member(database), clients(database)
    elsewhere = replace(ann, org_id=eve.org_id)
    await mine.change(ann, "desk", "default_agent", "guide")
    await mine.change(ann, "phone", "default_agent", "droid")
    assert [(one.client, one.preferences.default_agent) for one in await mine.list_(ann)] == [
        ("desk", "guide"),
        ("phone", "droid"),
    ]
    for other in (eve, elsewhere):
        assert await mine.list_(other) == ()
        assert (await mine.get(other, "desk")).preferences == NO_PREFERENCES
        assert await mine.preferences(other, "desk") == NO_PREFERENCES


async def test_a_choice_made_elsewhere_holds_after_ten_seconds(database: Database) -> None:
    clock = ManualClock()
    ann, here, there = await new_member(database), clients(database, clock), clients(database)
    assert await here.preferences(ann, "desk") == NO_PREFERENCES
    await there.change(ann, "desk", "default_agent", "guide")
    assert await here.preferences(ann, "desk") == NO_PREFERENCES
    clock.advance(timedelta(seconds=11))
    assert await here.preferences(ann, "desk") == Preferences(default_agent="guide")
    await here.change(ann, "desk", "default_agent", None)
    assert await here.preferences(ann, "desk") == NO_PREFERENCES


async def test_a_client_that_stays_away_is_forgotten_with_its_choices(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    await mine.change(ann, "desk", "default_agent", "guide")
    lives = "UPDATE public.mcp_sessions SET expires_at = now() + $2::interval WHERE user_id = $1"
    left = "SELECT expires_at > now() + interval '29 days' FROM public.mcp_sessions WHERE user_id = $1"
    async with database.as_system("test") as connection:
        await connection.execute(lives, ann.user_id, timedelta(days=1))
    assert await mine.preferences(ann, "desk") == Preferences(default_agent="guide")
    async with database.as_system("test") as connection:
        assert await connection.fetch(left, ann.user_id) == [(True,)]  # as long as it comes
        await connection.execute(lives, ann.user_id, timedelta(days=-1))
    assert await mine.list_(ann) == ()
    assert await clients(database).preferences(ann, "desk") == NO_PREFERENCES
    await mine.record(ann, "desk", {"protocol": "x"})
    assert await mine.list_(ann) == (ClientPreferences(client="desk", preferences=NO_PREFERENCES),)
    async with database.as_system("test") as connection:
        assert await connection.fetch(left, ann.user_id) == [(True,)]


async def test_a_choice_in_a_client_that_stayed_away_brings_no_old_one_back(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    await mine.change(ann, "desk", "default_agent", "guide")
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.mcp_sessions SET expires_at = now() - interval '1 second' WHERE user_id = $1", ann.user_id
        )
    await mine.change(ann, "desk", "guide.enabled", "false")
    assert (await mine.preferences(ann, "desk")).default_agent is None
    assert (await stored_state(database, ann, "desk"))["client"] == "desk"


async def test_a_token_without_the_scope_chooses_nothing(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    reader = Principal(ann.user_id, ann.org_id, ann.role, frozenset({TokenScope.READ}))
    with pytest.raises(PermissionDeniedError, match="scope 'edit'"):
        await mine.change(reader, "desk", "default_agent", "guide")
    assert (await mine.get(reader, "desk")).preferences == NO_PREFERENCES


async def test_a_command_says_which_clients_there_are(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    with pytest.raises(NotFoundError, match="connect one first"):
        await mine.find_client(ann, None)
    await mine.record(ann, "desk", {})
    assert await mine.find_client(ann, None) == "desk"
    with pytest.raises(NotFoundError, match="'phone' of yours; there are: 'desk'"):
        await mine.find_client(ann, "phone")
    await mine.record(ann, "phone", {})
    assert await mine.find_client(ann, "phone") == "phone"
    with pytest.raises(NotFoundError, match="name one of: 'desk', 'phone'"):
        await mine.find_client(ann, None)


async def test_a_trial_of_ours_is_no_client(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    for trial in ("Cursor", "Claude Code"):
        await mine.record(ann, f"{TRIAL} ({trial})", {})
        # As a version did that recorded them.
        await PostgresClients(database).record(ann, f"{TRIAL} (of a version before, {trial})", {})
    await mine.record(ann, "claude-code", {})
    assert [one.client for one in await mine.list_(ann)] == ["claude-code"]
    assert await mine.find_client(ann, None) == "claude-code"


async def test_a_client_is_found_by_the_name_that_people_give_it(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    for name in ("claude-code", "Visual Studio Code", "a_b", "a-b"):
        await mine.record(ann, name, {})
    assert await mine.find_client(ann, "Claude Code") == "claude-code"
    assert await mine.find_client(ann, "visual studio code") == "Visual Studio Code"
    assert await mine.find_client(ann, "a-b") == "a-b"
    with pytest.raises(NotFoundError, match="no MCP client 'A B' of yours"):
        await mine.find_client(ann, "A B")


async def test_the_agents_of_a_client_are_bounded(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    await mine.record(ann, "desk", {"agents": [{"mcp_name": f"a{number}"} for number in range(200)]})
    with pytest.raises(InvalidRequestError, match="At most 200"):
        await mine.change(ann, "desk", "droid.enabled", "false")


@pytest.mark.parametrize(
    ("state", "read"),
    [
        ({}, NO_PREFERENCES),
        ({"defaults": [], "agents": {}}, NO_PREFERENCES),
        ({"defaults": {"agent": 7, "model": ""}, "agents": [1, {}, {"mcp_name": 2}]}, NO_PREFERENCES),
        ({"defaults": {"agent": "a", "model": "m"}}, Preferences(default_agent="a", default_model="m")),
        (
            {"agents": [{"mcp_name": "a", "enabled": "no", "temperature": True, "model": ["m"]}]},
            Preferences(agents={"a": AgentPreferences()}),
        ),
        (
            {"agents": [{"mcp_name": "a", "enabled": False}, {"mcp_name": "a", "enabled": True}]},
            Preferences(agents={"a": AgentPreferences(enabled=False)}),
        ),
    ],
)
def test_a_state_of_another_form_says_nothing(state: dict[str, object], read: Preferences) -> None:
    assert read_preferences(ClientState(state)) == read


class CountedReads(PostgresClients):
    """The real store, which notes what is read."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.read: list[str] = []

    @override
    async def find(self, principal: Principal, client: str) -> ClientState:
        """Read it, and note that."""
        self.read.append(client)
        return await super().find(principal, client)


async def test_a_full_memory_of_choices_forgets_the_oldest_alone(database: Database) -> None:
    ann, store, clock = await new_member(database), CountedReads(database), ManualClock()
    mine = Clients(store, CataloguePolicy(catalogue_of_two(clock)), clock, max_remembered=2)
    for client in ("desk", "phone", "watch", "watch", "phone", "desk"):
        await mine.preferences(ann, client)
    assert store.read == ["desk", "phone", "watch", "desk"]


async def write_row(database: Database, owner: Principal, state: object, lasts: timedelta | None = None) -> None:
    """Write a row as a front end does, under a session_id of its own."""
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at) "
            "VALUES ($1, 'front-' || gen_random_uuid(), $2::text::jsonb, '{}', now() + $3::interval)",
            owner.user_id,
            json.dumps(state),
            lasts,
        )


FLAT = {"mcp_name": "droid", "type": "stdio", "command": "sh", "env": {"A": "b"}, "auth_type": "bearer"}


async def test_an_agent_that_a_front_end_switched_off_is_off_in_all_clients_of_its_user(database: Database) -> None:
    ann, eve, mine = await new_member(database), await new_member(database), clients(database)
    await write_row(database, ann, {**FLAT, "enabled": False, "system_prompt": "obey", "model": "m"})
    off = Preferences(agents={"droid": AgentPreferences(enabled=False)})
    assert await mine.preferences(ann, "desk") == off
    await mine.record(ann, "phone", {"protocol": "x"})
    assert [each.preferences for each in await mine.list_(ann)] == [off]
    assert (await mine.get(ann, "phone")).preferences == off
    assert (await mine.get(eve, "phone")).preferences == NO_PREFERENCES
    # What its user chooses in a client goes before it there.
    changed = await mine.change(ann, "desk", "droid.temperature", "0.5")
    assert changed.preferences.of_agent("droid") == AgentPreferences(enabled=False, temperature=0.5)
    changed = await mine.change(ann, "desk", "droid.enabled", "true")
    assert changed.preferences.of_agent("droid") == AgentPreferences(temperature=0.5)
    assert (await mine.get(ann, "phone")).preferences == off


async def test_of_several_rows_of_front_ends_the_one_that_lasts_longest_counts(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    await write_row(database, ann, {**FLAT, "enabled": False}, timedelta(days=1))
    await write_row(database, ann, {**FLAT, "enabled": True}, timedelta(days=2))
    await write_row(database, ann, {**FLAT, "mcp_name": "guide", "enabled": False}, timedelta(seconds=-1))
    assert (await mine.preferences(ann, "desk")).agents == {"droid": AgentPreferences()}
    await write_row(database, ann, {**FLAT, "enabled": False}, None)
    assert (await clients(database).preferences(ann, "desk")).of_agent("droid").enabled is False


@pytest.mark.parametrize(
    "bad",
    [
        {**FLAT, "enabled": "no"},
        {**FLAT, "enabled": None},
        {"mcp_name": 7, "enabled": False},
        {"mcp_name": "", "enabled": False},
        {"mcp_name": "d" * 256, "enabled": False},
        {"mcp_name": {"droid": 1}, "enabled": False},
        ["mcp_name"],
        "mcp_name",
    ],
)
async def test_a_row_that_is_none_is_ignored_and_told_once(
    bad: object, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    ann, mine = await new_member(database), clients(database, clock)
    await write_row(database, ann, bad)
    await write_row(database, ann, {**FLAT, "enabled": False})
    for _ in range(3):
        assert await mine.preferences(ann, "desk") == Preferences(agents={"droid": AgentPreferences(enabled=False)})
        clock.advance(timedelta(seconds=11))
    told = [record for record in caplog.records if record.message == "mcp_state_ignored"]
    assert [record.__dict__["user_id"] for record in told] == [str(ann.user_id)]
    assert told[0].__dict__["reason"].startswith(("mcp_name is no text", "enabled is neither"))


async def test_what_no_front_end_said_of_an_agent_is_nothing(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ann, mine = await new_member(database), clients(database)
    await write_row(database, ann, FLAT)
    await write_row(database, ann, {"theme": "dark"})
    assert await mine.preferences(ann, "desk") == NO_PREFERENCES
    assert caplog.records == []


async def test_what_a_front_end_adds_to_the_row_of_a_client_counts_in_that_client(database: Database) -> None:
    ann, mine = await new_member(database), clients(database)
    await mine.record(ann, "phone", {"protocol": "x", **FLAT, "enabled": False})
    assert await mine.preferences(ann, "phone") == Preferences(agents={"droid": AgentPreferences(enabled=False)})
    assert await mine.preferences(ann, "desk") == NO_PREFERENCES
