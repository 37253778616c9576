"""Databases of the files from before the first release: carried over where they equal the schema, else refused."""

from collections.abc import AsyncGenerator

import asyncpg
import pytest

from agentapi_mcp.base.errors import StoreMismatchError
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.legacy_schema import compare_with_schema
from agentapi_mcp.stores.postgres.migrate import migrate, preview, status
from agentapi_mcp.stores.postgres.schema_files import migrations
from agentapi_mcp.stores.postgres.schema_objects import read_objects
from agentapi_mcp.stores.postgres.schema_state import LEGACY_IDS, is_current
from tests.support.dumps import dump
from tests.support.schema_dump import FIXTURES
from tests.support.supabase import APP, OWNER, Project, copied, make_restored

OWN, EXISTING = FIXTURES / "old_own.sql", FIXTURES / "old_existing.sql"
FIRST = migrations()[:1]  # which stands for all that made them; later files are applied to every database alike
MONTH = "agentapi.audit_events_2026_11"
# What was done to an old database of the program's own, and what the refusal names.
CHANGED = {
    "a column more": ("ALTER TABLE agentapi.turns ADD note text", "column agentapi.turns.note is not of this schema"),
    "a column less": ("ALTER TABLE public.agents DROP config CASCADE", "column public.agents.config is missing"),
    "a column of another type": (
        "ALTER TABLE agentapi.turns ALTER latency_ms TYPE bigint",
        "column agentapi.turns.latency_ms differs",
    ),
    "another default": (
        "ALTER TABLE agentapi.turns ALTER partial_text DROP DEFAULT",
        "column agentapi.turns.partial_text differs",
    ),
    "a constraint less": (
        "ALTER TABLE agentapi.personal_tokens DROP CONSTRAINT personal_tokens_user_id_fkey",
        "constraint personal_tokens_user_id_fkey on agentapi.personal_tokens is missing",
    ),
    "an index less": (
        "DROP INDEX agentapi.turns_one_running",
        "index agentapi.turns_one_running on agentapi.turns is missing",
    ),
    "a trigger less": (
        "DROP TRIGGER update_agents_updated_at ON public.agents",
        "trigger update_agents_updated_at on public.agents is missing",
    ),
    "a trigger switched off": (
        "ALTER TABLE public.agents DISABLE TRIGGER update_agents_updated_at",
        "trigger update_agents_updated_at on public.agents differs",
    ),
    "a policy less": (
        "DROP POLICY agentapi_bound ON public.chat_messages",
        "policy agentapi_bound on public.chat_messages is missing",
    ),
    "a policy more": (
        'CREATE POLICY "Everybody" ON agentapi.turns USING (true)',
        "policy Everybody on agentapi.turns is not of this schema",
    ),
    "a wider policy": (
        "ALTER POLICY agentapi_writer_say ON public.chat_messages WITH CHECK (true)",
        "policy agentapi_writer_say on public.chat_messages differs",
    ),
    "row-level security switched off": (
        "ALTER TABLE agentapi.turns DISABLE ROW LEVEL SECURITY",
        "row security on agentapi.turns is missing",
    ),
    "a right more": (
        "GRANT INSERT, UPDATE (content) ON public.chat_messages TO authenticated",
        "role authenticated on public.chat_messages has INSERT, UPDATE (content) too",
    ),
    "a right less": (
        "REVOKE UPDATE ON agentapi.turns FROM agentapi_writer",
        "role agentapi_writer on agentapi.turns lacks UPDATE",
    ),
    "a right of everybody": (
        "GRANT EXECUTE ON FUNCTION agentapi.own_organization_ids() TO PUBLIC",
        "role PUBLIC on agentapi.own_organization_ids() has EXECUTE too",
    ),
    "a right to a month of the audit log": (
        f"GRANT SELECT ON {MONTH} TO authenticated",
        "role authenticated on agentapi.audit_events_MONTH has SELECT too",
    ),
    "another function": (
        "CREATE OR REPLACE FUNCTION agentapi.may_chat() RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true'",
        "function agentapi.may_chat() differs",
    ),
    "another view": (
        "CREATE OR REPLACE VIEW agentapi.agent_names AS SELECT id, 'x'::varchar(255) AS name FROM public.agents",
        "view agentapi.agent_names differs",
    ),
    "a view with its owner's rights": (
        "ALTER VIEW public.v_recent_sessions RESET (security_invoker)",
        "option security_invoker on public.v_recent_sessions is missing",
    ),
    "a type more": ("CREATE TYPE agentapi.mood AS ENUM ('good')", "type agentapi.mood is not of this schema"),
    "a table more": ("CREATE TABLE agentapi.notes (id uuid)", "table agentapi.notes is not of this schema"),
}
# The same for one in an organisation's project.
CHANGED_EXISTING = {
    "a policy less": (
        "DROP POLICY agentapi_system ON public.profiles",
        "policy agentapi_system on public.profiles is missing",
    ),
    "a wider policy": (
        "ALTER POLICY agentapi_bound ON public.chat_sessions USING (true)",
        "policy agentapi_bound on public.chat_sessions differs",
    ),
    "a policy of our name": (
        "CREATE POLICY agentapi_own ON public.profiles USING (true)",
        "policy agentapi_own on public.profiles is not of this schema",
    ),
    "an index less": (
        "DROP INDEX public.agentapi_sessions_owner",
        "index public.agentapi_sessions_owner on public.chat_sessions is missing",
    ),
    "a right less": (
        "REVOKE SELECT (workos_id) ON public.profiles FROM agentapi_system",
        "role agentapi_system on public.profiles lacks SELECT (workos_id)",
    ),
    "a right of the writer less": (
        "REVOKE SELECT (settings) ON public.organizations FROM agentapi_writer",
        "role agentapi_writer on public.organizations lacks SELECT (settings)",
    ),
    "a right more": (
        "GRANT DELETE ON public.profiles TO agentapi_system",
        "role agentapi_system on public.profiles has DELETE too",
    ),
    "row-level security switched off": (
        "ALTER TABLE public.chat_messages DISABLE ROW LEVEL SECURITY",
        "row security on public.chat_messages is missing",
    ),
    "a view with its owner's rights": (
        "ALTER VIEW public.v_agent_status RESET (security_invoker)",
        "option security_invoker on public.v_agent_status is missing",
    ),
    "a column of our own table": (
        "ALTER TABLE agentapi.turns ADD note text",
        "column agentapi.turns.note is not of this schema",
    ),
}
# What an organisation does to its own tables after the program came: none of it is the program's affair.
THEIRS = """
ALTER TABLE public.agents ADD region text;
CREATE INDEX agents_by_region ON public.agents (region);
CREATE POLICY "Everybody reads" ON public.agents FOR SELECT USING (region IS NULL);
GRANT SELECT (region) ON public.agents TO authenticated, agentapi_writer;
ALTER TABLE public.organizations ENABLE ROW LEVEL SECURITY;
DROP POLICY agentapi_read ON public.agents;
CREATE OR REPLACE FUNCTION public.update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RETURN NEW; END';
GRANT SELECT ON agentapi.turns TO service_role;
"""


@pytest.fixture(scope="module")
async def own_template(supabase_server: str) -> AsyncGenerator[str]:
    """Return an old database of the program's own, to be copied."""
    async with make_restored(supabase_server, OWN) as name:
        yield name


@pytest.fixture(scope="module")
async def existing_template(supabase_server: str, own_template: str) -> AsyncGenerator[str]:
    """Return an old database in an organisation's project, to be copied."""
    del own_template  # which has the roles
    async with make_restored(supabase_server, EXISTING) as name:
        yield name


@pytest.fixture(scope="module")
async def unchanged(supabase_server: str, own_template: str) -> AsyncGenerator[Project]:
    """Return an old database of the program's own, which no test changes."""
    async with copied(supabase_server, own_template) as made:
        yield made


@pytest.fixture(scope="module")
async def unchanged_existing(supabase_server: str, existing_template: str) -> AsyncGenerator[Project]:
    """Return an old database in an organisation's project, which no test changes."""
    async with copied(supabase_server, existing_template) as made:
        yield made


@pytest.fixture
async def own(supabase_server: str, own_template: str) -> AsyncGenerator[Project]:
    """Return an old database of the program's own."""
    async with copied(supabase_server, own_template) as made:
        yield made


@pytest.fixture
async def existing(supabase_server: str, existing_template: str) -> AsyncGenerator[Project]:
    """Return an old database in an organisation's project."""
    async with copied(supabase_server, existing_template) as made:
        yield made


async def check_adoption(project: Project) -> None:
    """Expect that the migration changes the record of migrations, and nothing else."""
    before = await dump(project.admin)
    assert await migrate(project.owner, program="0.1.0", files=FIRST) == ()
    after = await dump(project.admin)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == {
        "rows of agentapi.migrations"
    }
    assert [(state.id, state.note) for state in await status(project.owner)] == [
        (migration.id, None) for migration in migrations()
    ]
    assert [state.id for state in await status(project.owner) if state.applied_at] == [FIRST[0].id]
    assert await migrate(project.owner, program="0.1.0", files=FIRST) == ()
    assert await dump(project.admin) == after


async def expect_refusal(project: Project, words: str) -> None:
    """Expect a refusal that says this, and a database that is as it was."""
    before = await dump(project.admin)
    with pytest.raises(StoreMismatchError) as refusal:
        await migrate(project.owner, program="0.1.0")
    assert words in str(refusal.value)
    assert "AGENTAPI_HOME" in str(refusal.value)
    assert "Nothing was changed" in str(refusal.value)
    assert await dump(project.admin) == before


async def test_an_old_database_that_equals_the_schema_is_carried_over(own: Project) -> None:
    await check_adoption(own)
    assert await own.value("SELECT count(*) FROM public.chat_messages") == 8
    assert await own.value("SELECT count(*) FROM agentapi.user_api_keys") == 1


async def test_an_old_database_in_an_existing_project_is_carried_over(existing: Project) -> None:
    await check_adoption(existing)
    assert await existing.value("SELECT count(*) FROM agentapi.turns") == 1


async def test_what_an_organisation_did_to_its_own_tables_is_no_difference(existing: Project) -> None:
    await existing.run(THEIRS)
    await check_adoption(existing)


async def test_one_whose_months_were_all_pruned_is_carried_over(own: Project) -> None:
    await own.run(f"DROP TABLE {MONTH}, agentapi.audit_events_2026_12")
    await check_adoption(own)


async def found_after(project: Project, sql: str) -> tuple[str, ...]:
    """Change a database as its owner, compare it with the schema, and undo the change."""
    connection = await asyncpg.connect(project.admin)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL ROLE {OWNER}")
        await connection.execute(sql)
        facts = await connection.fetch("SELECT name FROM agentapi.facts WHERE value = 'ours'")
        version = connection.get_server_version().major
        return compare_with_schema(await read_objects(connection), [row["name"] for row in facts], postgres=version)
    finally:
        await transaction.rollback()
        await connection.close()


@pytest.mark.parametrize("change", CHANGED)
async def test_a_difference_is_found_and_named(change: str, unchanged: Project) -> None:
    sql, words = CHANGED[change]
    assert f"the {words}" in await found_after(unchanged, sql)


@pytest.mark.parametrize("change", CHANGED_EXISTING)
async def test_a_difference_in_an_existing_project_is_found_and_named(change: str, unchanged_existing: Project) -> None:
    sql, words = CHANGED_EXISTING[change]
    assert await found_after(unchanged_existing, sql) == (f"the {words}",)


async def test_differences_are_refused_and_nothing_is_changed(own: Project, existing: Project) -> None:
    for project in (own, existing):
        await project.run("ALTER TABLE agentapi.turns ADD note text; DROP INDEX agentapi.turns_agent", role=OWNER)
        await expect_refusal(
            project,
            "the column agentapi.turns.note is not of this schema; "
            "the index agentapi.turns_agent on agentapi.turns is missing. Undo these differences",
        )


async def test_many_differences_are_counted(own: Project) -> None:
    await own.run("".join(f"CREATE TABLE agentapi.t{n} ();" for n in range(25)), role=OWNER)
    await expect_refusal(own, "table agentapi.t0 is not of this schema")
    await expect_refusal(own, "; and 5 more")


@pytest.mark.parametrize("id_", [LEGACY_IDS[0], LEGACY_IDS[9], LEGACY_IDS[-1]])
async def test_an_earlier_state_is_refused(id_: str, own: Project) -> None:
    await own.run(f"DELETE FROM agentapi.migrations WHERE id = '{id_}'")  # noqa: S608  # a name of ours
    await expect_refusal(own, "only one that has exactly the files up to 0016_nets can be carried over")


async def test_a_preview_says_that_it_would_be_carried_over_and_changes_nothing(own: Project) -> None:
    before = await dump(own.admin)
    plan = await preview(own.owner, program="0.1.0", files=FIRST)
    assert (plan.carries_over, plan.migrations, plan.changes) == (True, (), ())
    assert await dump(own.admin) == before


async def test_the_state_says_which_files_are_old(own: Project) -> None:
    states = {state.id: state for state in await status(own.owner)}
    assert "carries such a database over" in str(states["0016_nets"].note)
    assert states["0001_schema"].applied_at is None


async def test_the_program_asks_for_a_migration_and_then_works(own: Project) -> None:
    # Each by the role that takes it back at the copy's end; the owner's own membership need not have SET.
    await own.run(f"GRANT authenticated TO {APP}", role=OWNER)
    await own.run(f"GRANT agentapi_system, agentapi_writer TO {APP}")
    async with open_database(RemoteServer(own.app), PoolOptions()) as database:
        assert not await is_current(database, program="0.1.0")
        await migrate(own.owner, program="0.1.0")
        assert await is_current(database, program="0.1.0")
        await own.run(f"UPDATE agentapi.migrations SET id = '{LEGACY_IDS[3]}' WHERE id = '0001_schema'")  # noqa: S608  # ours
        with pytest.raises(StoreMismatchError, match=LEGACY_IDS[3]):
            await is_current(database, program="0.1.0")
