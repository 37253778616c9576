"""The audit log as its operator reads it in a terminal."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_bytes
from uuid import uuid4

import asyncpg
import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.settings import VERSION, Settings
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from tests.acceptance.test_processes import environ, run
from tests.support.supabase import ACME, ALICE, APP, BOB, Project

pytestmark = pytest.mark.acceptance
LONG_AGO = "SELECT agentapi.keep_audit_partitions(now() - interval '600 days')"
MONTHS = (
    "SELECT count(*) FROM pg_inherits WHERE inhparent = 'agentapi.audit_events'::regclass "
    "AND inhrelid::regclass::text ~ '_\\d{4}_\\d{2}$'"
)


@asynccontextmanager
async def owner(home: Path) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect as the owner of the tables of an embedded database."""
    postgres = EmbeddedPostgres(home)
    connection = await asyncpg.connect((await asyncio.to_thread(postgres.ensure)).owner_url)
    try:
        yield connection
    finally:
        await connection.close()
        await asyncio.to_thread(postgres.release)


async def test_what_commands_did_is_listed_and_narrowed(edge_home: Path) -> None:
    env = environ(edge_home)
    status, out, err = await run(env, "chat", "--agent", "guide", "--json", "what is this program?")
    assert status == 0, err
    turn = json.loads(out)
    assert (await run(env, "sessions", "rename", turn["session_id"], "a new title"))[0] == 0
    status, out, err = await run(env, "audit", "--json", "--since", "10m", "--limit", "300")
    assert (status, err) == (0, "")
    said = json.loads(out)["events"]
    ids = (turn["turn_id"], turn["session_id"])
    assert [(one["action"], one["client"]) for one in said if one["target"] and one["target"]["id"] in ids] == [
        ("session_renamed", "agentapi-mcp 0.1.0, a command"),
        ("turn_ended", "agentapi-mcp 0.1.0, a command"),
        ("turn_accepted", "agentapi-mcp 0.1.0, a command"),
    ]
    assert "a new title" not in out
    status, out, _ = await run(env, "audit", "--action", "session_renamed", "--outcome", "ok", "--limit", "1")
    assert (status, out.splitlines()[1].split("\t")[1:3]) == (0, ["session_renamed", "ok"])
    status, out, err = await run(env, "audit", "--user", "00000000-0000-4000-8000-000000000000")
    assert (status, out, err) == (0, "", "No event fits.\n")


async def test_the_log_of_another_organisation_of_ones_own_is_read(edge_home: Path) -> None:
    env = environ(edge_home)
    _, org_id, _ = await run(env, "organization", "create", "Another")
    await run(env, "organization", "set", "default_agent", "guide", "--org", org_id.strip())
    status, out, _ = await run(env, "audit", "--json", "--action", "organization_changed", "--org", org_id.strip())
    assert (status, [one["target"]["id"] for one in json.loads(out)["events"]]) == (0, [org_id.strip()])


async def test_changes_of_tokens_keys_and_settings_are_recorded_before_they_are_told(edge_home: Path) -> None:
    key, name = "sk-or-v1-canary-0123456789", f"n{uuid4().hex}"
    env = environ(edge_home) | {"AGENTAPI_MASTER_KEY": base64.b64encode(token_bytes(32)).decode()}
    _, secret, _ = await run(env, "tokens", "create", name, "--scope", "read")
    await run(env, "tokens", "revoke", name)
    await run(env, "keys", "add", "vendor", "--name", name, stdin=key)
    await run(env, "keys", "deactivate", name)
    await run(env, "keys", "remove", name)
    await run(env, "organization", "set", "default_agent", "guide")
    await run(env, "organization", "unset", "default_agent")
    _, out, _ = await run(env, "audit", "--json", "--since", "10m", "--limit", "200")
    said = {each["action"]: each for each in reversed(json.loads(out)["events"])}  # the newest of each
    changes = ("token_created", "token_revoked", "key_added", "key_changed", "key_removed", "organization_changed")
    assert set(changes) <= set(said)
    assert said["token_created"]["details"]["scopes"] == "read"
    assert said["token_created"]["target"] == said["token_revoked"]["target"]
    assert said["key_changed"]["details"] == {"provider": "vendor", "status": "inactive"}
    assert said["organization_changed"]["details"] == {"settings": "default_agent"}
    assert not [text for text in (secret.strip(), key, name) if text in out]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "soon"], "'soon' is no time: say 30m, 12h, 7d or 2w, or a date such as 2026-07-02."),
        (["--since", "2026-13-01"], "'2026-13-01' is no time"),
        (["--action", "everything"], "'everything' is not one of"),
    ],
)
async def test_what_cannot_be_meant_is_refused_in_words(words: list[str], said: str, edge_home: Path) -> None:
    status, out, err = await run(environ(edge_home), "audit", *words)
    assert (status, out) == (2, "")
    assert said in err


async def test_the_embedded_log_is_pruned_by_the_program(edge_home: Path) -> None:
    async with owner(edge_home) as connection:
        # As a day after the last time, whichever test that was in.
        await connection.execute("SET row_security = off; DELETE FROM agentapi.jobs")
        await connection.execute(LONG_AGO)
        assert await connection.fetchval(MONTHS) > 2
        async with open_app(Settings(home=edge_home, postgres_linger_seconds=20), {}) as app:
            await app.services_provider.services()
            while await connection.fetchval(MONTHS) > 2:
                pass


async def test_a_member_is_refused_and_an_owner_reads_of_it(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program=VERSION, grant_to=APP)
    env = environ(tmp_path) | {"DATABASE_URL": deployed.app, "AGENTAPI_ORG_ID": str(ACME)}
    status, out, err = await run(env | {"AGENTAPI_USER_ID": str(BOB)}, "audit", "--limit", "5")
    assert (status, out) == (2, "")
    assert "audit:read" in err
    status, out, err = await run(env | {"AGENTAPI_USER_ID": str(ALICE)}, "audit", "--json")
    assert (status, err) == (0, "")
    (event,) = json.loads(out)["events"]
    assert (event["action"], event["outcome"], event["user_id"]) == ("permission_denied", "refused", str(BOB))
    assert event["target"] == {"kind": "command", "id": "audit"}
    assert event["details"] == {"needs": "audit:read", "reason": "role"}


async def test_who_does_not_own_the_tables_drops_nothing(project: Project, tmp_path: Path) -> None:
    await migrate(project.owner, program=VERSION, grant_to=APP)
    await project.run(LONG_AGO)
    env = environ(tmp_path) | {"DATABASE_URL": project.app}
    status, out, err = await run(env, "audit", "prune")
    assert (status, out) == (3, "")
    assert "AGENTAPI_MIGRATE_DATABASE_URL" in err
    env |= {"AGENTAPI_MIGRATE_DATABASE_URL": project.owner}
    status, out, err = await run(env, "audit", "prune")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"Dropped: \d{4}-\d\d, \d{4}-\d\d\.\n", out)
    await project.run(LONG_AGO)
    assert (await run(env, "migrate"))[0] == 0
    assert await project.value(MONTHS) == 4  # how long they are kept is not for whoever migrates to say


async def test_there_is_nothing_to_drop_at_first(edge_home: Path) -> None:
    assert (await run(environ(edge_home), "audit"))[0] == 0
    status, out, err = await run(environ(edge_home), "audit", "prune")
    assert (status, out, err) == (0, "No month is older than 400 days.\n", "")
