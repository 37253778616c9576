"""The commands on an organisation's database, as an administrator types them: their words, and their exit statuses."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentapi_mcp.stores.postgres.schema_files import migrations
from tests.support.dumps import dump
from tests.support.supabase import ACME, ALICE, APP, OLD_SESSION, OWNER, Project

pytestmark = pytest.mark.acceptance

ALL = ", ".join(migration.id for migration in migrations())


async def run(project: Project, home: Path, *words: str) -> tuple[int, str, str]:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agentapi_mcp",
        *words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            "PATH": os.defpath,
            "AGENTAPI_HOME": str(home),
            "DATABASE_URL": project.app,
            "AGENTAPI_MIGRATE_DATABASE_URL": project.owner,
            "AGENTAPI_USER_ID": str(ALICE),
            "AGENTAPI_ORG_ID": str(ACME),
        },
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_from_an_existing_project_to_a_conversation(deployed: Project, tmp_path: Path) -> None:
    status, out, _ = await run(deployed, tmp_path, "migrate", "--status")
    assert status == 0
    assert [line.split("\t")[1] for line in out.splitlines()] == ["not yet"] * len(migrations())
    status, _, err = await run(deployed, tmp_path, "sessions", "list")
    assert status == 3
    assert "agentapi-mcp migrate" in err

    status, out, err = await run(deployed, tmp_path, "migrate", "--dry-run", "--grant-to", APP)
    assert (status, err) == (0, "")
    first, second, *changes = out.splitlines()
    assert f", as the login {OWNER}: it fits. Nothing was changed." in first
    assert second == f"It would apply: {ALL}"
    assert {"  create schema agentapi", f"  grant the role agentapi_system to {APP}"} <= set(changes)
    status, out, _ = await run(deployed, tmp_path, "migrate", "--grant-to", APP)
    assert (status, out.splitlines()[0]) == (0, f"Applied: {ALL}")
    status, out, _ = await run(deployed, tmp_path, "migrate")
    assert (status, out) == (0, "The database is up to date.\n")
    status, out, _ = await run(deployed, tmp_path, "migrate", "--dry-run")
    assert (status, out.splitlines()[1:]) == (0, ["The database is up to date."])

    status, out, err = await run(deployed, tmp_path, "sessions", "list")
    assert status == 0, err
    assert str(OLD_SESSION)[:6] in out
    status, out, err = await run(deployed, tmp_path, "chat", "--continue", "--agent", "guide", "what is a turn?")
    assert status == 0, err
    status, out, _ = await run(deployed, tmp_path, "sessions", "show", str(OLD_SESSION))
    assert "Kerosene." in out
    assert "what is a turn?" in out


async def test_a_refusal_names_everything_and_has_its_own_status(deployed: Project, tmp_path: Path) -> None:
    await deployed.run("ALTER TABLE public.models DROP model_id; ALTER TABLE public.mcp_sessions DROP mcp_state")
    await deployed.run(f"REVOKE REFERENCES ON public.agents FROM {OWNER}, anon, authenticated, service_role")
    before = await dump(deployed.admin)
    for words in (("migrate", "--dry-run"), ("migrate",)):
        status, out, err = await run(deployed, tmp_path, *words)
        assert (status, out) == (3, "")
        assert "public.models.model_id must be text, or character varying(255) or longer, it is missing" in err
        assert "public.mcp_sessions.mcp_state must be jsonb, it is missing" in err
        assert f"the login lacks GRANT REFERENCES ON public.agents TO {OWNER}" in err
        assert err.rstrip().endswith("Nothing was changed.")
        assert "Traceback" not in err
    assert await dump(deployed.admin) == before
