"""The SQL of the page on Supabase, run in the page's order on a database that looks like a project."""

import re
from pathlib import Path

import asyncpg
import pytest

from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.login_privileges import login_remark
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.schema_state import is_current
from tests.support.dumps import dump
from tests.support.supabase import ACME, ALICE, BARE_SESSION, BOB, Project, address

PAGE = Path(__file__).parents[3] / "docs" / "supabase.md"
LOGIN = "agentapi_login"
CLOSED = ("agents", "models", "agent_health", "chat_messages", "mcp_sessions")
FIVE = ("agents", "models", "chat_sessions", "chat_messages", "agent_health")


def statements() -> dict[str, str]:
    """List the page's SQL by the section it stands in; a section's blocks are joined."""
    found: dict[str, str] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        blocks = re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if blocks:
            found[title] = "\n".join(blocks)
    return found


async def records(owner: "asyncpg.Connection[asyncpg.Record]", sql: str) -> None:
    """Record an interaction as a signed-in user, and take it back."""
    transaction = owner.transaction()
    await transaction.start()
    await owner.execute("SET LOCAL ROLE authenticated")
    await owner.execute("SELECT set_config('request.jwt.claims', $1, true)", f'{{"sub": "{ALICE}"}}')
    await owner.execute(sql)
    assert await owner.fetchval("SELECT title FROM public.recent_interactions LIMIT 1") == "Code review"
    await transaction.rollback()


async def test_the_page_leads_to_a_login_that_works_and_out_again(
    deployed: Project, supabase_server: str, given_url: str | None
) -> None:
    if given_url is not None:
        pytest.skip("needs a server of its own: other databases of yours use the program's role")
    sql = statements()
    before = await dump(deployed.admin)
    owner = await asyncpg.connect(deployed.owner)
    try:
        await owner.execute(sql.pop("Make a login").replace("a long random password", "not-a-secret"))
        await migrate(deployed.owner, program="0.1.0")
        await owner.execute(sql.pop("Run the migrations"))

        name = str(await owner.fetchval("SELECT current_database()"))
        server = RemoteServer(address(supabase_server, database=name, login=LOGIN))
        async with open_database(server, PoolOptions(statement_cache=False)) as database:
            assert await is_current(database, program="0.1.0")
            assert await login_remark(database) is None

        rows = await owner.fetch(sql.pop("Say who you are"))
        assert {tuple(row) for row in rows} == {(ALICE, ACME, "owner"), (BOB, ACME, "billing")}

        await owner.execute("UPDATE public.chat_sessions SET org_id = NULL WHERE id = $1", BARE_SESSION)
        await owner.execute(sql.pop("Old conversations"))
        assert await owner.fetchval("SELECT org_id FROM public.chat_sessions WHERE id = $1", BARE_SESSION) == ACME

        await records(owner, sql.pop("Views of other names"))
        await owner.execute(sql.pop("Take it out again"))
    finally:
        await owner.close()
    assert sql == {}
    after = await dump(deployed.admin)
    assert {key for key in after.keys() - before.keys() if not key.endswith(" to authenticated")} == set()
    assert {key for key in before.keys() - after.keys() if not key.endswith(" to anon")} == set()
    # What stays closed is what the page says; the session above was given its organisation again, and a new time.
    assert {key for key in before.keys() & after.keys() if before[key] != after[key]} == {
        *(f"row security of public.{name}" for name in FIVE),
        "relation public.v_recent_sessions",
        "relation public.v_agent_status",
        "rows of public.chat_sessions",
        *(f"grant on public.{name} to authenticated" for name in CLOSED),
        "grant on public.mcp_sessions to anon",
    }


async def test_the_roles_go_with_the_last_database_that_uses_them(
    project: Project, deployed: Project, given_url: str | None
) -> None:
    if given_url is not None:
        pytest.skip("needs a server of its own: other databases of yours use the program's role")
    sql = statements()
    out = sql["Take it out again"]
    only_here, roles, theirs = out.partition("DROP ROLE agentapi_system, agentapi_writer;\n")
    assert len(theirs.split(";\n")) == 3, "the page speaks of the last three statements"
    first, last = await asyncpg.connect(project.owner), await asyncpg.connect(deployed.owner)
    try:
        await first.execute(sql["Make a login"])
        for address_of_owner in (project.owner, deployed.owner):
            await migrate(address_of_owner, program="0.1.0")
        with pytest.raises(asyncpg.DependentObjectsStillExistError, match="some objects depend on it"):
            await first.execute(out)
        await first.execute(only_here)
        assert await first.fetchval("SELECT to_regnamespace('agentapi')") is None
        await last.execute(only_here + roles + theirs)
        assert (
            await last.fetch(
                "SELECT rolname FROM pg_roles WHERE rolname IN ('agentapi_system', 'agentapi_writer', $1)", LOGIN
            )
            == []
        )
    finally:
        await first.close()
        await last.close()
