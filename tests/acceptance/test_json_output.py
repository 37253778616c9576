"""Commands for programs: one JSON value on stdout, in the shapes of the tools; and ids by their beginnings or ends."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from agentapi_mcp.presentation.models import AgentsOut, ModelsOut, OrganizationOut, SessionsOut, TurnOut
from tests.acceptance.test_keys import master_key
from tests.acceptance.test_processes import environ, run
from tests.support.command_tree import COMMANDS
from tests.support.databases import Seed

pytestmark = pytest.mark.acceptance
# Every command that is told an id, with the rest of what it is told; {} is the id.
IDS = {
    "archive": ("session", "{}"),
    "audit": ("member", "--user {}"),
    "budgets remove": ("budget", "{}"),
    "budgets set": ("key", "1 --key {}"),
    "chat": ("session", "--session {} --agent guide hello"),
    "keys activate": ("key", "{}"),
    "keys deactivate": ("key", "{}"),
    "keys remove": ("key", "{}"),
    "members remove": ("member", "{}"),
    "members role": ("member", "{} viewer"),
    "rate": ("session", "{} 5"),
    "sessions delete": ("session", "{} --yes"),
    "sessions export": ("session", "{}"),
    "sessions rename": ("session", "{} title"),
    "sessions show": ("session", "{}"),
    "tag": ("session", "{} cats"),
    "tokens revoke": ("token", "{}"),
    "turns cancel": ("turn", "{}"),
    "turns show": ("turn", "{}"),
}
# An id that is chosen here, and not one that there is.
CHOSEN = {"providers add", "terms add"}
# Whole ids alone: they select who asks, before anything can be looked for.
SELECTING = {"--org", "--user"}
NOBODYS = "00000000-0000-4000-8000-000000000000"


async def asked(env: Mapping[str, str], *words: str, stdin: str = "") -> Any:  # noqa: ANN401  # whatever it prints
    """Run a command with --json, and return the one value that it prints."""
    status, out, err = await run(env, *words, "--json", stdin=stdin)
    assert status == 0, (words, err)
    return json.loads(out)


async def refused(env: Mapping[str, str], *words: str) -> dict[str, Any]:
    """Run a command with --json that fails, and return its error, which is in words on stderr, too."""
    status, out, err = await run(env, *words, "--json")
    error: dict[str, Any] = json.loads(out)["error"]
    assert status in {1, 2, 3}
    assert error["message"] in err
    assert error.keys() == {"code", "message", "next_step", "retryable"}
    return error


def test_every_command_that_is_told_an_id_is_tried() -> None:
    told = {
        name
        for name, command in COMMANDS.items()
        for parameter in command.params
        if "ID" in (parameter.metavar or parameter.name or "").upper().replace("PROVIDER", "").split("_")[-1].split("|")
        and not (parameter.type is click.UUID and SELECTING.intersection(parameter.opts))
    }
    assert told - CHOSEN == IDS.keys()
    assert told >= CHOSEN


@pytest.mark.parametrize("name", IDS)
async def test_an_id_that_fits_nothing_is_refused_in_the_same_words_everywhere(edge_home: Path, name: str) -> None:
    env = environ(edge_home) | {"AGENTAPI_MASTER_KEY": master_key()}
    what, words = IDS[name]
    error = await refused(env, *name.split(), *words.format("nosuch").split())
    # The home is that of other tests: where they left more turns than are searched, a sentence more says so.
    assert error["message"].startswith(f"There is no {what} nosuch; `agentapi-mcp {what}s list` shows those there are.")
    blank = await refused(env, *name.split(), *(word.format("      ") for word in words.split()))
    assert blank["message"].startswith(f"That is too short for the id of a {what}")
    error = await refused(env, *name.split(), *words.format("abcde").split())
    assert error["message"].startswith(f"abcde is too short for the id of a {what}: say 6 characters of it")


async def test_conversations_are_json_in_the_shapes_of_the_tools_and_named_by_short_ids(
    seed: Seed, tmp_path: Path
) -> None:
    async with seed.started("json-") as server:
        env = environ(server.home)
        turn = await asked(env, "chat", "--agent", "guide", "what is a turn?")
        assert TurnOut.model_validate(turn).session_id == turn["session_id"]
        end, begin = turn["session_id"][-8:], turn["session_id"][:13]
        listed = await asked(env, "sessions", "list")
        assert SessionsOut.model_validate(listed).model_dump(mode="json") == listed
        assert [each["session_id"] for each in listed["sessions"]] == [turn["session_id"]]
        assert (await asked(env, "chat", "--session", end, "--agent", "guide", "and then?"))["session_id"] == (
            turn["session_id"]
        )
        await asked(env, "chat", "--agent", "guide", "what is a session?")
        newest = await asked(env, "sessions", "list", "--limit", "1")
        assert newest["sessions"] != listed["sessions"]
        rest = await asked(env, "sessions", "list", "--cursor", newest["next_cursor"])
        assert ([each["session_id"] for each in rest["sessions"]], rest["next_cursor"]) == ([turn["session_id"]], None)
        await asked(env, "sessions", "delete", newest["sessions"][0]["session_id"], "--yes")
        shown = await asked(env, "sessions", "show", f" {end.upper()}\n")
        assert [each["role"] for each in shown["messages"]] == ["user", "assistant", "user", "assistant"]
        assert await asked(env, "sessions", "export", begin) == shown
        file = str(tmp_path / "exported.md")
        written = {"session_id": turn["session_id"], "file": file, "format": "markdown"}
        assert await asked(env, "sessions", "export", end, "--output", file) == written
        assert (await asked(env, "sessions", "rename", end, "another title"))["title"] == "another title"

        await expect_turns(env, turn)
        assert (await asked(env, "sessions", "delete", end, "--yes"))["deleted"]["session_id"] == turn["session_id"]
        assert await asked(env, "sessions", "list") == {"sessions": [], "next_cursor": None}


async def expect_turns(env: Mapping[str, str], turn: Mapping[str, Any]) -> None:
    """Find a turn, one of two of these minutes, by parts of its id."""
    turns = (await asked(env, "turns", "list"))["turns"]
    assert "There are more, older ones" in (await run(env, "turns", "list", "--limit", "1"))[2]
    assert turn["turn_id"] in {each["turn_id"] for each in turns}
    assert (await asked(env, "turns", "show", turn["turn_id"][-6:]))["turn_id"] == turn["turn_id"]
    assert (await asked(env, "turns", "cancel", turn["turn_id"][-12:]))["status"] == "completed"
    told = (await run(env, "turns", "show", turn["turn_id"][-6:]))[1]
    assert f"turn: {turn['turn_id']}\n" in told
    assert re.search(r"\nbegan: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", told)
    assert turn["reply"] in told

    # Both turns of the last minutes begin alike, and both are named.
    error = await refused(env, "turns", "show", turn["turn_id"][:6])
    assert error["code"] == "not_found"
    assert all(each["turn_id"] in error["message"] for each in turns)
    for group in ("sessions", "turns"):
        message = (await refused(env, group, "show", NOBODYS))["message"]
        assert f"`agentapi-mcp {group} list` shows those there are." in message


async def test_agents_and_what_is_ones_own_are_json(seed: Seed) -> None:
    async with seed.started("json-") as server:
        env = environ(server.home) | {"AGENTAPI_MASTER_KEY": master_key()}
        agents = await asked(env, "agents", "list")
        assert AgentsOut.model_validate(agents).model_dump(mode="json") == agents
        shown = await asked(env, "agents", "show", "droid")
        assert shown["agent"] in agents["agents"]
        models = await asked(env, "models", "list", "--agent", "droid")
        assert ModelsOut.model_validate(models).model_dump(mode="json") == models
        assert shown["models"] == models["models"]

        made = await asked(env, "tokens", "create", "ci", "--scope", "read")
        assert [each["id"] for each in (await asked(env, "tokens", "list"))["tokens"]] == [made["id"]]
        assert (await asked(env, "tokens", "revoke", made["id"][-6:]))["revoked"]["name"] == "ci"

        key = await asked(env, "keys", "add", "vendor", stdin="sk-canary-0123456789")
        assert [each["id"] for each in (await asked(env, "keys", "list"))["keys"]] == [key["id"]]
        assert (await asked(env, "keys", "deactivate", key["id"][-6:]))["active"] is False
        assert (await asked(env, "keys", "activate", key["id"][:18]))["active"] is True
        assert await asked(env, "secrets", "rotate") == {"sealed": 0}  # by the first master key already
        assert (await asked(env, "keys", "remove", "vendor"))["id"] == key["id"]
        assert (await asked(env, "accounts", "list")) == {"accounts": []}
        assert (await asked(env, "preferences", "show")) == {"clients": []}
        assert len((await asked(env, "secrets", "generate"))["master_key"]) > 40


async def test_an_organisation_is_json_and_its_members_are_named_by_short_ids(seed: Seed) -> None:
    async with seed.started("json-") as server:
        env = environ(server.home)
        mine = await asked(env, "organization", "show")
        assert OrganizationOut.model_validate(mine).model_dump(mode="json") == mine
        assert (await asked(env, "organization", "set", "default_agent", "guide"))["settings"][
            "default_agent"
        ] == "guide"
        assert (await asked(env, "organization", "unset", "default_agent"))["settings"]["default_agent"] is None
        limit = await asked(env, "organization", "limit", "max_conversations", "5")
        assert limit == {"org_id": mine["id"], "name": "max_conversations", "most": 5}
        other = await asked(env, "organization", "create", "Acme")
        assert other["name"] == "Acme"
        assert (await asked(env, "organization", "show", "--org", other["id"]))["id"] == other["id"]

        (me,) = (await asked(env, "members", "list"))["members"]
        invited = await asked(env, "members", "invite", "bo@example.com", "--role", "viewer")
        assert (await asked(env, "members", "list"))["invitations"] == [invited]
        assert await asked(env, "members", "withdraw", "bo@example.com") == {"withdrawn": "bo@example.com"}
        assert "last owner" in (await refused(env, "members", "remove", me["user_id"][-6:]))["message"]

        events = (await asked(env, "audit", "--user", me["user_id"][-8:], "--limit", "2"))["events"]
        assert [each["user_id"] for each in events] == [me["user_id"]] * 2
        assert (await asked(env, "audit", "prune"))["dropped"] == []
        (newest,), cursor = (await asked(env, "audit", "--limit", "1")).values()
        after = (await asked(env, "audit", "--limit", "1", "--cursor", cursor))["events"]
        events = (await asked(env, "audit", "--limit", "9"))["events"]  # each look is an event
        assert events[events.index(newest) + 1] == after[0]
        states = (await asked(env, "migrate", "--status"))["migrations"]
        assert all(re.fullmatch(r"\d{4}-.*Z", each["applied_at"]) for each in states)
        assert (await asked(env, "migrate"))["migrations"] == []
        assert (await asked(env, "stop"))["left"] == []
        assert (await asked(env, "status"))["servers"] == []


@pytest.mark.parametrize("words", [("agents", "list"), ("chat", "--agent", "guide", "hello"), ("help",)], ids=" ".join)
async def test_who_reads_no_more_ends_a_command_as_in_any_pipe(words: tuple[str, ...], edge_home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    env = environ(edge_home) | {"PYTHONPATH": ":".join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentapi_mcp", *words), env=env, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    _, err = await process.communicate()
    assert (process.returncode, b"Traceback" in err, b"Exception ignored" in err) == (141, False, False), err


async def test_what_changes_files_is_json_too(edge_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "agents.toml"
    config.write_text("", encoding="utf-8")
    env = environ(edge_home) | {"HOME": str(tmp_path), "AGENTAPI_CONFIG": str(config), "OPENAI_API_KEY": "sk-test"}
    added = await asked(env, "agents", "add", "openai", "--model", "m", "--yes", "--force")
    assert (added["file"], added["written"]) == (str(config), True)
    assert "[agents.openai]" in added["change"]
    kept = await asked(env, "agents", "remove", "openai", "--dry-run")
    assert (kept["file"], kept["written"]) == (added["file"], False)
    assert {each["name"] for each in (await asked(env, "agents", "add"))["providers"]} >= {"openai", "ollama"}
    (pasted,) = await asked(env, "connect", "codex", "--print")
    assert (pasted["client"], "[mcp_servers.agentapi]" in pasted["paste"]) == ("codex", True)
    undone = await asked(env, "disconnect", "codex")
    assert (undone["client"], undone["outcome"]) == ("codex", "unchanged")
    assert "has no agent 'nosuch'" in (await refused(env, "models", "sync", "nosuch"))["message"]
