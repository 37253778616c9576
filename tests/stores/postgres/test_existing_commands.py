"""The commands on an organisation's database, as an administrator types them: their words, and their exit statuses."""

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agentapi_mcp.stores.postgres.schema_files import migrations
from tests.support.command_runs import CommandRun, run_command
from tests.support.dumps import dump
from tests.support.supabase import ACME, ALICE, APP, OLD_SESSION, OWNER, Project
from tests.support.terminals import terminal

pytestmark = pytest.mark.acceptance

ALL = ", ".join(migration.id for migration in migrations())

NOTE = (
    "Note: authenticated may not read public.agents.config, which seems to hold secrets (droid: api_key); a query for "
    "all columns of the table is refused, as in select('*')."
)


def environ(project: Project, home: Path) -> dict[str, str]:
    """Make the environment of the commands."""
    return {
        "PATH": os.defpath,
        "AGENTAPI_HOME": str(home),
        "DATABASE_URL": project.app,
        "AGENTAPI_MIGRATE_DATABASE_URL": project.owner,
        "AGENTAPI_USER_ID": str(ALICE),
        "AGENTAPI_ORG_ID": str(ACME),
    }


async def run(project: Project, home: Path, *words: str) -> CommandRun:
    """Run a command to its end."""
    return await run_command(environ(project, home), *words)


async def test_from_an_existing_project_to_a_conversation(deployed: Project, tmp_path: Path) -> None:
    status, out, _ = await run(deployed, tmp_path, "migrate", "--status")
    assert status == 0
    assert [line.split("\t")[1] for line in out.splitlines()[1:]] == ["not yet"] * len(migrations())
    status, _, err = await run(deployed, tmp_path, "sessions", "list")
    assert status == 3
    assert (
        f"DATABASE_URL names it: if it is the one that you mean, run `agentapi-mcp migrate --grant-to {APP}` once"
        in err
    )

    status, out, err = await run(deployed, tmp_path, "migrate", "--dry-run", "--grant-to", APP)
    assert (status, err) == (0, "")
    first, second, *changes = out.splitlines()
    assert f", as the login {OWNER}: it fits. Nothing was changed." in first
    assert second == f"It would apply: {ALL}"
    assert {"  create schema agentapi", f"  grant the role agentapi_system to {APP}"} <= set(changes)
    status, out, _ = await run(deployed, tmp_path, "migrate", "--grant-to", APP)
    assert (status, out.splitlines()[0]) == (0, f"Applied: {ALL}")
    assert out.splitlines()[-1] == NOTE
    status, out, _ = await run(deployed, tmp_path, "migrate")
    assert (status, out.splitlines()) == (0, ["The database is up to date.", NOTE])
    status, out, _ = await run(deployed, tmp_path, "migrate", "--dry-run")
    assert (status, out.splitlines()[1:]) == (0, ["The database is up to date.", NOTE])
    status, out, err = await run(deployed, tmp_path, "sessions", "list")
    assert status == 0, err
    assert str(OLD_SESSION)[:6] in out
    status, out, err = await run(deployed, tmp_path, "chat", "--continue", "--agent", "guide", "what is a turn?")
    assert status == 0, err
    status, out, _ = await run(deployed, tmp_path, "sessions", "show", str(OLD_SESSION))
    assert "Kerosene." in out
    assert "what is a turn?" in out


async def test_columns_are_narrowed_and_widened_by_an_option(deployed: Project, tmp_path: Path) -> None:
    for option, notes in (("--narrow-columns", []), ("--no-narrow-columns", [NOTE])):
        status, out, _ = await run(deployed, tmp_path, "migrate", option)
        assert (status, [line for line in out.splitlines()[1:] if "may not read" in line]) == (0, notes)
    assert "Note: authenticated may now read public.models.config." in out.splitlines()


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
        assert err.startswith("agentapi-mcp: AGENTAPI_MIGRATE_DATABASE_URL: The database does not fit")
        assert err.rstrip().endswith("Nothing was changed.")
        assert "Traceback" not in err
    assert await dump(deployed.admin) == before


async def test_tables_are_created_beside_those_of_others_only_where_somebody_says_so(
    project: Project, tmp_path: Path
) -> None:
    before = await dump(project.admin)
    status, out, err = await run(project, tmp_path, "migrate")
    assert (status, out) == (2, "")
    name = urlsplit(project.owner).path.removeprefix("/")
    assert f"The database {name}, which AGENTAPI_MIGRATE_DATABASE_URL names, has tables of other programs" in err
    assert "(mcp_sessions, organization_members, organizations, profiles, projects)" in err
    assert "would create agents, models, chat_sessions, chat_messages, agent_health beside them" in err
    assert "say --yes" in err
    assert await dump(project.admin) == before
    status, out, _ = await run(project, tmp_path, "migrate", "--dry-run")
    assert (status, await dump(project.admin)) == (0, before)
    assert "(AGENTAPI_MIGRATE_DATABASE_URL)" in out

    for answer, last in (("n", 1), ("y", 0)):
        with terminal(environ(project, tmp_path), "migrate") as person:
            person.until("Go on? [y/N]")
            person.type(f"{answer}\r")
            assert await asyncio.to_thread(person.leave) == last
        assert (await dump(project.admin) == before) is (answer == "n")
    status, out, _ = await run(project, tmp_path, "migrate")
    assert (status, out) == (0, "The database is up to date.\n")


async def test_yes_says_so_in_advance_and_what_was_added_is_told(project: Project, tmp_path: Path) -> None:
    await project.run(
        "CREATE TABLE public.agents (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, "
        "type text NOT NULL, config jsonb, created_at timestamptz, updated_at timestamptz)",
        role=OWNER,
    )
    status, out, err = await run(project, tmp_path, "migrate", "--yes")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"Applied: {ALL}",
        (
            "Added, since it was missing: the column public.agents.description, the column public.agents.enabled, "
            "a unique index on public.agents (name)."
        ),
    ]
