"""Every command that names something, tried by others than its owner, on one database."""

import asyncio
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import click
import pytest

from agentapi_mcp.cli.main import main
from agentapi_mcp.core.identity.principals import Role
from agentapi_mcp.stores.postgres.database import Connection
from tests.support.clusters import cluster_environ
from tests.support.command_runs import run_commands
from tests.support.connect import call, fields_of
from tests.support.tenants import Member, tenants

# What tells nothing of anybody's conversations, or of the machine's own configuration alone; and what whoever operates
# the database does with all of it, as the owner of its tables.
ABOUT_NOBODY = {
    "",
    "accounts connect",
    "agents add",
    "agents remove",
    "audit prune",
    "backup",
    "completion",
    "connect",
    "disconnect",
    "doctor",
    "help",
    "keys add",
    "migrate",
    "move",
    "models sync",
    "reset",
    "restore",
    "secrets generate",
    "secrets rotate",
    "serve",
    "status",
    "stop",
    "uninstall",
}
FOR_ADMINISTRATORS = ("audit", "members", "organization set", "organization show", "organization unset")
ADMINISTRATORS = {Role.OWNER, Role.ADMIN}
CANARY = f"c{uuid4().hex}"


def tried(session_id: str, turn_id: str, user_id: str, file: str = "") -> dict[str, list[str]]:
    """Say what is tried with each command."""
    return {
        "chat": ["--session", session_id, "and then?"],
        "accounts list": ["--json"],
        "accounts disconnect": [CANARY],
        "agents list": ["--json"],
        "agents show": [CANARY],
        "models list": ["--json"],
        "export": [file],
        "sessions list": ["--json"],
        "sessions show": [session_id],
        "sessions export": [session_id, "--format", "json"],
        "sessions rename": [session_id, "taken"],
        "sessions delete": [session_id, "--yes"],
        "rate": [session_id, "1"],
        "tag": [session_id, "taken"],
        "archive": [session_id],
        "record": ["Another"],
        "turns list": ["--json"],
        "turns show": [turn_id],
        "turns cancel": [turn_id],
        "audit": ["--json", "--limit", "200"],
        "budgets list": ["--json"],
        "budgets set": ["1000", "--soft"],
        "budgets remove": [turn_id],
        "budgets plan": ["another"],
        "usage": ["--json"],
        "providers list": ["--json"],
        "providers add": ["another"],
        "terms list": ["--json"],
        "terms add": ["feature", "another"],
        "members list": ["--json"],
        "members invite": ["another@example.com"],
        "members withdraw": ["another@example.com"],
        "members role": [user_id, "viewer"],
        "members remove": [user_id],
        "organization create": ["Another"],
        "organization show": [],
        "organization limit": ["max_conversations", "1000"],
        "organization set": ["default_agent", "guide"],
        "organization unset": ["default_agent"],
        "preferences show": ["--json"],
        "preferences set": ["--client", CANARY, "default_agent", "guide"],
        "preferences unset": ["--client", CANARY, "default_agent"],
        "keys list": ["--json"],
        "keys remove": [CANARY],
        "keys deactivate": [CANARY],
        "keys activate": [CANARY],
        "tokens create": ["another"],
        "tokens list": ["--json"],
        "tokens revoke": [CANARY],
    }


def commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[str]:
    """List every command as it is typed."""
    if group.invoke_without_command:
        yield " ".join(before)
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name))


def test_every_command_is_tried() -> None:
    known = set(tried("", "", "")) | ABOUT_NOBODY
    assert set(commands(main)) == known, (
        "add a new command to `tried`, with the arguments that others try, "
        "or to ABOUT_NOBODY, if it neither tells nor changes what belongs to a user"
    )


@pytest.mark.acceptance
@pytest.mark.timeout(600)  # it runs some thirty commands
@pytest.mark.parametrize("attacker", ["abe", "bo", "away"])
async def test_no_command_tells_or_does_what_is_anothers(attacker: str, edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("ann", "http-2026") as ann:
        done = fields_of(await call(ann, "chat", agent="droid", message=f"{CANARY} [[echo]]"))
        running = fields_of(await call(ann, "chat", agent="droid", message=f"{CANARY} [[waits]]", wait_seconds=0))
        member, owner = here.members[attacker], here.members["ann"]
        over_there = str(here.members["bea" if member.org_id == owner.org_id else "abe"].user_id)
        async with here.database.as_system("test") as connection:
            await bring_canaries(connection, owner)
        await here.services.personal_tokens.create(owner.principal, CANARY)
        trials = tried(str(done["session_id"]), str(running["turn_id"]), over_there, str(tmp_path / "mine.zip"))
        if member.user_id == owner.user_id:
            # An account is its user's in all of their organisations: they see and end it from each.
            # They stand in an export too, whose other parts the other attackers try.
            trials = {each: words for each, words in trials.items() if not each.startswith(("accounts", "export"))}
        words = [[*command.split(), *arguments] for command, arguments in trials.items()]
        runs = await asyncio.to_thread(run_commands, environ(edge_home, member), words, timeout=500)
        for (command, arguments), ran in zip(trials.items(), runs, strict=True):
            said = ran.out + ran.err + (exported(tmp_path / "mine.zip") if command == "export" else "")
            assert CANARY not in said.replace(CANARY, "", 1 if CANARY in arguments else 0), (command, said)
            names = bool({str(done["session_id"]), str(running["turn_id"]), over_there} & set(arguments))
            refused = command.startswith(FOR_ADMINISTRATORS) and member.role not in ADMINISTRATORS
            assert (ran.status != 0) == (names or refused or CANARY in arguments), (command, said)
            if names and not refused:
                assert "There is no such" in said
        async with here.database.as_system("test") as connection:
            kept = "SELECT active FROM agentapi.user_api_keys WHERE name = $1 AND org_id = $2"
            assert await connection.fetchval(kept, CANARY, owner.org_id) is True
            assert await connection.fetchval(
                "SELECT oauth_data ? $2 FROM public.mcp_sessions WHERE user_id = $1 AND session_id LIKE 'oauth/%'",
                owner.user_id,
                CANARY,
            )
        read = fields_of(await call(ann, "get_turn", turn_id=running["turn_id"], wait_seconds=0))
        assert read["status"] == "running"
        assert [token.name for token in await here.services.personal_tokens.list_(owner.principal)] == [CANARY]
        listed = str((await call(ann, "list_sessions")).structured_content)
        assert CANARY in listed
        assert "taken" not in listed


def exported(file: Path) -> str:
    """Return what is in an archive that `export` wrote."""
    with zipfile.ZipFile(file) as archive:
        return "".join(archive.read(name).decode() for name in archive.namelist())


async def bring_canaries(connection: Connection, owner: Member) -> None:
    """Give the owner a key and an account."""
    await connection.execute(
        "INSERT INTO agentapi.user_api_keys (id, user_id, org_id, provider, name, sealed_key, key_id, active) "
        "VALUES (gen_random_uuid(), $1, $2, 'openrouter', $3, 'x', 'k', true)",
        owner.user_id,
        owner.org_id,
        CANARY,
    )
    await connection.execute(
        "INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at) "
        "VALUES ($1::uuid, 'oauth/' || $1::uuid, '{}', jsonb_build_object($2::text, $3::text::jsonb), "
        "'9999-12-31')",
        owner.user_id,
        CANARY,
        json.dumps(
            {"sealed": "eA==", "key_id": "k", "state": "connected", "scopes": [], "expires_at": None}
            | dict.fromkeys(("connected_at", "issued_at"), "2026-01-01T00:00:00+00:00")
        ),
    )


def environ(home: Path, member: Member) -> dict[str, str]:
    """Return the environment of a member's commands."""
    return {
        "PATH": os.defpath,
        "AGENTAPI_HOME": str(home),
        "AGENTAPI_USER_ID": str(member.user_id),
        "AGENTAPI_ORG_ID": str(member.org_id),
        **cluster_environ(),
    }
