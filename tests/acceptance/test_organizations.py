"""The limits of an organisation as the operator and an administrator type them."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.acceptance.test_processes import environ, run
from tests.support.databases import Seed
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance


@pytest.fixture
async def fresh_home(seed: Seed) -> AsyncGenerator[Path]:
    """Return a home of this test alone, whose organisation has no conversations."""
    async with seed.started("mcp-") as server:
        await server.leave_agents()
        yield server.home


async def test_a_limit_is_set_seen_and_removed_at_the_command_line(fresh_home: Path) -> None:
    env = environ(fresh_home)
    status, out, _ = await run(env, "organization", "show")
    assert (status, out.splitlines()[-3:]) == (
        0,
        [
            "max_conversations: 0 conversations, no limit",
            "max_running_turns: 0 running turns, no limit",
            "max_running_bytes: 0 bytes of messages of running turns, no limit",
        ],
    )
    assert await run(env, "organization", "limit", "max_conversations", "1") == (
        0,
        "",
        "From the next message on, max_conversations is 1.\n",
    )
    assert (await run(env, "chat", "--agent", "guide", "hello"))[0] == 0
    status, _, err = await run(env, "chat", "--agent", "guide", "hello again")
    assert status == 2
    assert "Your organisation has 1 of 1 conversations that it may have; delete some, or ask the operator" in err
    assert "max_conversations: 1 of 1 conversations\n" in (await run(env, "organization", "show"))[1]
    assert (await run(env, "organization", "limit", "max_conversations", "--none"))[2] == (
        "From the next message on, max_conversations is without a limit.\n"
    )
    status, out, _ = await run(env, "organization", "show", "--json")
    assert json.loads(out)["limits"]["max_conversations"] == {"used": 1, "most": None, "readable": True}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("max_conversations",), "Say how much, or --none for no limit."),
        (("max_conversations", "5", "--none"), "Say how much, or --none for no limit."),
        (("max_conversations", "many"), "max_conversations must be a whole number in digits, as in 50."),
        (("max_conversations", "-1"), "max_conversations must be a whole number in digits, as in 50."),
        (("max_conversations", "1.5"), "max_conversations must be a whole number in digits, as in 50."),
        (("max_conversations", "\u0665\u0660"), "max_conversations must be a whole number in digits, as in 50."),
        (("max_conversations", "9007199254740992"), "must be a whole number between 0 and 9007199254740991."),
        (("max_agents", "5"), "there are: max_conversations, max_running_turns, max_running_bytes."),
        (("max_agents", "--none"), "there are: max_conversations, max_running_turns, max_running_bytes."),
        (
            ("max_conversations", "5", "--org", "01a20bcb-b793-74bb-9c4e-9abce3d206b3"),
            "There is no such organisation.",
        ),
        (("max_conversations", "5", "--org", "Acme"), "'Acme' is not a valid UUID."),
    ],
)
async def test_what_cannot_be_a_limit_is_refused_with_what_is_right(
    words: tuple[str, ...], said: str, edge_home: Path
) -> None:
    status, out, err = await run(environ(edge_home), "organization", "limit", *words)
    assert (status, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("max_tokens", "abc", "agentapi-mcp: max_tokens must be a number.\n"),
        ("max_tokens", "1.5", "agentapi-mcp: max_tokens must be a number.\n"),
        ("temperature", "9", "agentapi-mcp: temperature must be between 0 and 2.\n"),
        ("max_tokens", "0", "agentapi-mcp: max_tokens must be "),
    ],
)
async def test_a_setting_that_is_refused_is_named_as_it_was_written(
    setting: str, value: str, said: str, edge_home: Path
) -> None:
    status, out, err = await run(environ(edge_home), "organization", "set", setting, value)
    assert (status, out) == (2, "")
    assert err.startswith(said)


async def test_what_was_spent_is_told_as_the_page_on_costs_says(fresh_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env = environ(fresh_home, peer)
        for message in ("one", "two"):
            status, out, err = await run(env, "chat", "--agent", "droid", "--json", message)
            assert status == 0, err
    session = json.loads(out)["session_id"]
    assert "$0.00014" in (await run(env, "sessions", "show", session))[1]
    assert await spent(env) == 0.00028
    assert (await run(env, "sessions", "delete", session, "--yes"))[0] == 0
    # The ledger does not forget what a deleted conversation has cost.
    assert await spent(env) == 0.00028
    words = ("--action", "turn_ended", "--since", "90d", "--limit", "1000", "--json")
    events = json.loads((await run(env, "audit", *words))[1])["events"]
    assert [event["details"]["cost_usd"] for event in events] == [0.00014, 0.00014]


async def spent(env: dict[str, str]) -> float:
    """Return what the organisation has spent in the last 30 days."""
    return float(json.loads((await run(env, "organization", "show", "--json"))[1])["numbers"]["cost_usd"])
