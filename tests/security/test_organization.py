"""What an organisation's administrators see and set, and that it holds for its members and for nobody else."""

import json
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
from mcp import Client
from mcp_types import CallToolResult

from tests.support.connect import call, fields_of, listed_agents, text_of
from tests.support.tenants import tenants

pytestmark = pytest.mark.timeout(60)
LINKS = ("http-2025", "http-2026")


@pytest.mark.parametrize("link", LINKS)
async def test_an_admin_sees_numbers_and_no_text(link: str, edge_home: Path, tmp_path: Path) -> None:
    canary = f"c{uuid4().hex}"
    async with tenants(edge_home, tmp_path) as here:
        async with here.client("ann", link) as ann:
            for _ in range(2):
                await call(ann, "chat", agent="droid", message=f"{canary} [[echo]]")
        async with here.client("abe", link) as admin:
            seen = await call(admin, "get_organization")
            numbers = fields_of(seen)["numbers"]
            assert isinstance(numbers, dict)
            assert (numbers["members"], numbers["sessions"], numbers["messages"]) == (3, 2, 4)
            assert numbers["turns"] == {"completed": 2}
            assert numbers["cost_usd"] > 0
            assert "2 sessions" in text_of(seen)
            assert canary not in seen.model_dump_json()
            assert canary not in (await call(admin, "list_sessions")).model_dump_json()
        async with here.client("bea", link) as other:
            numbers = fields_of(await call(other, "get_organization"))["numbers"]
            assert isinstance(numbers, dict)
            assert (numbers["members"], numbers["sessions"], numbers["turns"]) == (3, 0, {})
            assert (numbers["input_tokens"], numbers["output_tokens"]) == (0, 0)


async def test_an_admin_sees_the_limits_of_their_own_organisation_alone(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("ann", "http-2026") as ann:
        await call(ann, "chat", agent="droid", message="hello [[echo]]")
        operator = here.services.principal
        for member, most in (("abe", 50), ("bea", 70)):
            await here.services.organizations.limit(operator, here.members[member].org_id, "max_conversations", most)
        for member, used, most in (("abe", 1, 50), ("bea", 0, 70)):
            async with here.client(member, "http-2026") as admin:
                seen = await call(admin, "get_organization")
                assert fields_of(seen)["limits"] == {
                    "max_conversations": {"used": used, "most": most, "readable": True},
                    "max_running_turns": {"used": 0, "most": None, "readable": True},
                    "max_running_bytes": {"used": 0, "most": None, "readable": True},
                }
                assert f"- max_conversations: {used} of {most} conversations\n" in text_of(seen)
                assert "- max_running_turns: 0 running turns, no limit\n" in text_of(seen)


@pytest.mark.parametrize("link", LINKS)
async def test_tokens_that_nobody_counted_are_unknown_and_not_zero(link: str, edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("bea", link) as client:
        await call(client, "chat", agent="droid", message="hello [[nousage]]")
        seen = await call(client, "get_organization")
        numbers = fields_of(seen)["numbers"]
        assert isinstance(numbers, dict)
        assert (numbers["input_tokens"], numbers["output_tokens"], numbers["cost_usd"]) == (None, None, None)
        assert "1 turn, unknown tokens; unknown cost." in text_of(seen)
        await call(client, "chat", agent="droid", message="hello [[echo]]")
        numbers = fields_of(await call(client, "get_organization"))["numbers"]
        assert isinstance(numbers, dict)
        assert numbers["input_tokens"] > 0


async def test_sums_say_how_many_turns_they_leave_out(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("bea", "http-2026") as client:
        await call(client, "chat", agent="guide", message="hello")  # a known cost of zero, and zero tokens
        await call(client, "chat", agent="droid", message="hello [[echo]]")
        for number in range(2):
            await call(client, "chat", agent="droid", message=f"{number} [[nousage]]")
        seen = await call(client, "get_organization")
        numbers = fields_of(seen)["numbers"]
        assert isinstance(numbers, dict)
        assert (numbers["unknown_tokens"], numbers["unknown_costs"]) == (2, 2)
        assert "11 tokens in, 5 out and 2 turns of unknown tokens; $0.0001 and 2 turns of unknown cost." in text_of(
            seen
        )


@pytest.mark.parametrize("link", LINKS)
async def test_who_is_no_admin_neither_sees_nor_sets(link: str, edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here:
        for member in ("ann", "vic", "bo", "narrow"):
            async with here.client(member, link) as client:
                for tool, arguments in (("get_organization", {}), ("set_organization", {"temperature": 1})):
                    refused = await call(client, tool, **arguments)
                    assert refused.is_error
                    assert "ask an administrator" in text_of(refused)
        async with here.client("abe", link) as admin:
            assert set(settings_of(await call(admin, "get_organization")).values()) == {None}


@pytest.mark.parametrize("link", LINKS)
async def test_what_is_allowed_holds_for_its_members_alone(link: str, edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("ann", link) as ann, here.client("bo", link) as bo:
        begun = fields_of(await call(ann, "chat", agent="droid", message="hello [[echo]]"))
        async with here.client("abe", link) as admin:
            set_ = await call(admin, "set_organization", allowed_agents=["guide"], default_agent="guide")
            assert settings_of(set_)["allowed_agents"] == ["guide"]
            assert await names(ann) == ["guide"]
            assert {"guide", "droid"} < set(await names(bo))
            for arguments in ({"agent": "droid"}, {"session_id": begun["session_id"]}):
                refused = await call(ann, "chat", message="hello", **arguments)
                assert refused.is_error
                assert "there are: guide" in text_of(refused)
            assert fields_of(await call(ann, "chat", message="hello"))["agent"] == "guide"
            assert fields_of(await call(ann, "list_models"))["models"] == []
            health = await call(ann, "get_health", agent="droid")
            assert health.is_error
            assert fields_of(await call(bo, "chat", agent="droid", message="hello [[echo]]"))["status"] == "completed"
            await call(admin, "set_organization", unset=["allowed_agents"], allowed_models=["droid/gpt-4o"])
            (model,) = cast("list[dict[str, str]]", fields_of(await call(ann, "list_models"))["models"])
            assert (model["agent"], model["name"]) == ("droid", "gpt-4o")
            answered = fields_of(await call(ann, "chat", agent="droid", message="hello [[echo]]"))
            assert answered["model"] == "gpt-4o"
            refused = await call(ann, "chat", agent="droid", model="claude-3-opus", message="hello")
            assert refused.is_error
            assert "gpt-4o" in text_of(refused)


async def test_settings_reach_the_agent_and_other_keys_stay(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("abe", "http-2026") as admin:
        org_id = here.members["abe"].org_id
        async with here.database.as_system("test") as connection:
            await connection.execute(
                'UPDATE public.organizations SET settings = \'{"theme": "dark"}\' WHERE id = $1', org_id
            )
        given = {"system_prompt": "Be brief.", "temperature": 0.5, "max_tokens": 77, "default_agent": "droid"}
        await call(admin, "set_organization", **given)
        await call(admin, "chat", message="hello")
        sent = (await here.peer.received(path="/api/v1/chat/completions")).json
        assert (sent["temperature"], sent["max_tokens"]) == (0.5, 77)
        assert "Be brief." in json.dumps(sent["messages"])
        await call(admin, "set_organization", unset=list(given))
        async with here.database.as_system("test") as connection:
            kept = await connection.fetchval("SELECT settings::text FROM public.organizations WHERE id = $1", org_id)
        assert json.loads(kept) == {"theme": "dark"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "Say what to set"),
        ({"default_agent": "nobody"}, "no such agent"),
        ({"default_agent": " "}, "default_agent"),
        ({"default_model": "gpt-0"}, "no such model"),
        ({"allowed_agents": ["guide", "nobody"]}, "no such agent"),
        ({"allowed_agents": []}, "unset it"),
        ({"allowed_agents": ["guide"] * 201}, "unset it"),
        ({"allowed_agents": [1]}, "a list of strings"),
        ({"allowed_models": ["droid/nothing"]}, "no such model"),
        ({"temperature": 3}, "between 0 and 2"),
        ({"max_tokens": 0}, "at least 1"),
        ({"system_prompt": "\0"}, "NUL"),
        ({"unset": ["theme"]}, "There is no setting"),
        ({"unset": ["limits"]}, "There is no setting"),
        ({"unset": ["max_conversations"]}, "only the operator"),
        ({"theme": "dark"}, "no argument"),
        ({"max_conversations": 5}, "no argument"),
        ({"limits": {"max_conversations": 5}}, "no argument"),
        ({"temperature": 1, "unset": ["temperature"]}, "do one of the two"),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_changes_nothing(
    arguments: dict[str, object], words: str, edge_home: Path, tmp_path: Path
) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("abe", "http-2026") as admin:
        refused = await call(admin, "set_organization", **arguments)
        assert refused.is_error
        assert words in text_of(refused)
        assert set(settings_of(await call(admin, "get_organization")).values()) == {None}


async def test_settings_of_another_form_are_passed_over(edge_home: Path, tmp_path: Path) -> None:
    written: dict[str, object] = {
        "default_agent": 7,
        "temperature": "hot",
        "max_tokens": True,
        "system_prompt": [],
    }
    async with tenants(edge_home, tmp_path) as here, here.client("ann", "http-2026") as ann:
        async with here.database.as_system("test") as connection:
            await connection.execute(
                "UPDATE public.organizations SET settings = $2::text::jsonb WHERE id = $1",
                here.members["ann"].org_id,
                json.dumps(written),
            )
        assert {"guide", "droid"} < set(await names(ann))
        assert fields_of(await call(ann, "chat", agent="guide", message="hello"))["status"] == "completed"
        async with here.database.as_system("test") as connection:
            await connection.execute(
                'UPDATE public.organizations SET settings = \'{"allowed_agents": "guide"}\' WHERE id = $1',
                here.members["ann"].org_id,
            )
        assert await names(ann) == [], "an allowance that cannot be read allows nothing"


def settings_of(result: CallToolResult) -> dict[str, object]:
    settings = fields_of(result)["settings"]
    assert isinstance(settings, dict)
    return cast("dict[str, object]", settings)


async def names(client: Client) -> list[str]:
    return list((await listed_agents(client))[0])
