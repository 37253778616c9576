"""Databases that do not fit: each misfit is named, in words, and nothing at all is changed."""

import asyncpg
import pytest

from agentapi_mcp.base.errors import StoreMismatchError
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.login_privileges import login_remark
from agentapi_mcp.stores.postgres.migrate import migrate, preview, status
from agentapi_mcp.stores.postgres.schema_state import is_current
from tests.support.dumps import dump
from tests.support.supabase import APP, OWNER, Project

# The owner is a member of these, and has what they have.
EVERYBODY = "anon, authenticated, service_role"
# What is done to the database by whom (None is the administrator), and what the refusal names.
SHAPES = {
    "a column of another type": (
        OWNER,
        "ALTER TABLE public.chat_messages ALTER content TYPE json USING to_json(content)",
        ["public.chat_messages.content must be text, it is json"],
    ),
    "a column too short": (
        OWNER,
        "DROP VIEW public.v_recent_sessions; ALTER TABLE public.chat_sessions ALTER title TYPE varchar(40)",
        ["public.chat_sessions.title must be text, or character varying(255) or longer, it is character varying(40)"],
    ),
    "a column of an older table of another type": (
        OWNER,
        "ALTER TABLE public.organizations ALTER settings DROP DEFAULT, ALTER settings TYPE text",
        ["public.organizations.settings must be jsonb, it is text"],
    ),
    "columns missing": (
        OWNER,
        "ALTER TABLE public.models DROP model_id; ALTER TABLE public.mcp_sessions DROP mcp_state",
        ["public.models.model_id must be", "public.mcp_sessions.mcp_state must be jsonb, it is missing"],
    ),
    "a column that the program does not know and must fill": (
        OWNER,
        (
            "ALTER TABLE public.agent_health ADD region text NOT NULL DEFAULT 'x'; "
            "ALTER TABLE public.agent_health ALTER region DROP DEFAULT"
        ),
        ["public.agent_health.region must have a default or allow null"],
    ),
    "a column that may not be empty": (
        OWNER,
        "UPDATE public.chat_messages SET tokens_in = 0; ALTER TABLE public.chat_messages ALTER tokens_in SET NOT NULL",
        ["public.chat_messages.tokens_in must allow null"],
    ),
    "a missing unique constraint": (
        OWNER,
        "ALTER TABLE public.models DROP CONSTRAINT models_agent_id_name_key",
        ["public.models must have a primary key or unique constraint on (agent_id, name)"],
    ),
    "messages that outlive their session": (
        OWNER,
        (
            "ALTER TABLE public.chat_messages DROP CONSTRAINT chat_messages_session_id_fkey, "
            "ADD FOREIGN KEY (session_id) REFERENCES public.chat_sessions (id)"
        ),
        ["public.chat_messages.session_id must reference public.chat_sessions (id) with ON DELETE CASCADE"],
    ),
    "a table that is a view": (
        OWNER,
        (
            "DROP VIEW public.v_agent_status; DROP TABLE public.agent_health; "
            "CREATE VIEW public.agent_health AS SELECT id AS agent_id FROM public.agents"
        ),
        ["public.agent_health must be a table"],
    ),
    "a view that is a table": (
        OWNER,
        "DROP VIEW public.v_agent_status; CREATE TABLE public.v_agent_status (id uuid)",
        ["public.v_agent_status must be a view"],
    ),
    "a view that reads something else": (
        OWNER,
        (
            "CREATE OR REPLACE VIEW public.v_agent_status AS SELECT a.id, a.name, a.type, a.enabled, "
            "'x'::varchar(50) AS status, now() AS last_check, 0 AS consecutive_failures, "
            "(SELECT count(*) FROM public.projects) AS model_count FROM public.agents a"
        ),
        ["the view public.v_agent_status must read agents", "public.projects"],
    ),
    "a view that reads nothing of ours": (
        OWNER,
        "DROP VIEW public.v_recent_sessions; CREATE VIEW public.v_recent_sessions AS SELECT 1 AS id",
        ["the view public.v_recent_sessions must read chat_sessions", "it reads none"],
    ),
    "a policy of our name": (
        OWNER,
        "CREATE POLICY agentapi_own ON public.profiles USING (true)",
        ["public.profiles has a policy named agentapi_own"],
    ),
    "a policy that would hide everything from the program": (
        OWNER,
        'CREATE POLICY "Not banned" ON public.agents AS RESTRICTIVE USING (auth.uid() IS NOT NULL)',
        ["the restrictive policy Not banned on public.agents holds for every role"],
    ),
    "an index of our name": (
        OWNER,
        "CREATE INDEX agentapi_sessions_order ON public.projects (title)",
        ["there is something named public.agentapi_sessions_order"],
    ),
    "an index of our name for whose a session is": (
        OWNER,
        "CREATE INDEX agentapi_sessions_owner ON public.projects (title)",
        ["there is something named public.agentapi_sessions_owner"],
    ),
    "an index of our name for the sessions of an organisation": (
        OWNER,
        "CREATE INDEX agentapi_sessions_organization ON public.projects (title)",
        ["there is something named public.agentapi_sessions_organization"],
    ),
    "an index of our name for expired clients": (
        OWNER,
        "CREATE INDEX agentapi_mcp_sessions_expires ON public.projects (title)",
        ["there is something named public.agentapi_mcp_sessions_expires"],
    ),
    "columns for signing in of another type": (
        OWNER,
        (
            "ALTER TABLE public.profiles ALTER email TYPE json USING to_json(email), DROP workos_id; "
            "ALTER TABLE public.organizations ALTER name TYPE json USING to_json(name); "
            "ALTER TABLE public.organization_members ALTER permissions DROP DEFAULT, ALTER permissions TYPE text"
        ),
        [
            "public.profiles.email must be text, or character varying(1) or longer, it is json",
            "public.profiles.workos_id must be text, or character varying(1) or longer, it is missing",
            "public.organizations.name must be text, or character varying(1) or longer, it is json",
            "public.organization_members.permissions must be jsonb, it is text",
        ],
    ),
    "a function of another kind": (
        OWNER,
        (
            "CREATE FUNCTION public.update_updated_at_column(text) RETURNS text LANGUAGE sql AS 'SELECT $1'; "
            "DROP FUNCTION public.update_updated_at_column() CASCADE"
        ),
        ["public.update_updated_at_column must be a trigger function"],
    ),
    "an auth.uid() of another type": (
        None,
        "DROP FUNCTION auth.uid() CASCADE; CREATE FUNCTION auth.uid() RETURNS text LANGUAGE sql AS 'SELECT ''x'''",
        ["auth.uid() must return uuid, it returns text"],
    ),
    "a grant to everybody": (
        OWNER,
        "GRANT SELECT ON public.chat_messages TO public",
        ["anon may use public.chat_messages, by a grant to PUBLIC"],
    ),
    "grants to everybody to write, and to read secrets": (
        OWNER,
        "GRANT INSERT ON public.mcp_sessions TO public; GRANT SELECT (config) ON public.agents TO public",
        [
            "anon may use public.agents, anon may write public.mcp_sessions, authenticated may write",
            ", anon may read config of public.agents, authenticated may read config of public.agents, by a grant to",
        ],
    ),
    "somebody else's schema": (
        OWNER,
        "CREATE SCHEMA agentapi; CREATE TABLE agentapi.requests (id bigint)",
        ["There is a schema agentapi that is not this program's"],
    ),
    "somebody else's table of migrations": (
        OWNER,
        "CREATE SCHEMA agentapi; CREATE TABLE agentapi.migrations (version bigint)",
        ["There is a schema agentapi that is not this program's"],
    ),
    "a schema that is not the owner's": (
        None,
        "CREATE SCHEMA agentapi",
        ["The schema agentapi belongs to"],
    ),
}
# The same for what the login may do.
RIGHTS = {
    "no right to create a schema": (
        (
            f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO postgres', current_database()); END $$; "
            f"GRANT CREATE ON SCHEMA public TO {OWNER}"
        ),
        ["The login lacks GRANT CREATE ON DATABASE"],
    ),
    "no right to create tables": (
        (
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO postgres', current_database()); "
            f"EXECUTE format('GRANT CREATE ON DATABASE %I TO {OWNER}', current_database()); END $$"
        ),
        [f"the login lacks GRANT USAGE, CREATE ON SCHEMA public TO {OWNER}"],
    ),
    "tables of another owner": (
        (
            "ALTER TABLE public.agents OWNER TO postgres; ALTER VIEW public.v_agent_status OWNER TO postgres; "
            "ALTER TABLE public.profiles OWNER TO supabase_auth_admin"
        ),
        [
            "public.agents belongs to",
            "public.v_agent_status belongs to",
            "public.profiles belongs to supabase_auth_admin",
        ],
    ),
    "no right to refer to a table": (
        f"REVOKE REFERENCES ON public.profiles, public.chat_sessions FROM {OWNER}, {EVERYBODY}",
        ["GRANT REFERENCES ON public.profiles", "GRANT REFERENCES ON public.chat_sessions"],
    ),
    "no right to the schema auth": (
        f"REVOKE USAGE ON SCHEMA auth FROM {OWNER}, {EVERYBODY}",
        [f"the login lacks GRANT USAGE ON SCHEMA auth TO {OWNER}"],
    ),
    "no function auth.uid() and no right to make it": (
        "DROP FUNCTION auth.uid() CASCADE",
        ["the schema auth has no function uid()", f"GRANT CREATE ON SCHEMA auth TO {OWNER}"],
    ),
    "a user who may not ask who he is": (
        "REVOKE EXECUTE ON FUNCTION auth.uid() FROM public",
        ["authenticated lacks GRANT EXECUTE ON FUNCTION auth.uid() TO authenticated"],
    ),
}


async def expect_refusal(project: Project, url: str, words: list[str]) -> None:
    """Expect a refusal that names all of these, and a database that is as it was."""
    before = await dump(project.admin)
    for run in (preview, migrate):
        with pytest.raises(StoreMismatchError) as refusal:
            await run(url, program="0.1.0")
        assert [word for word in words if word not in str(refusal.value)] == [], str(refusal.value)
        assert "Nothing was changed" in str(refusal.value)
    assert await dump(project.admin) == before


@pytest.mark.parametrize("misfit", SHAPES)
async def test_another_shape_is_refused_by_name(misfit: str, deployed: Project) -> None:
    role, change, words = SHAPES[misfit]
    await deployed.run(change, role=role)
    await expect_refusal(deployed, deployed.owner, words)


@pytest.mark.parametrize("lack", RIGHTS)
async def test_a_missing_right_is_refused_by_name(lack: str, deployed: Project) -> None:
    change, words = RIGHTS[lack]
    await deployed.run(change)
    await expect_refusal(deployed, deployed.owner, words)


async def test_who_owns_no_table_is_told_whose_they_are_and_not_what_their_owner_adds(deployed: Project) -> None:
    await deployed.run(
        "ALTER TABLE public.agents DROP description; ALTER TABLE public.models DROP provider; "
        "ALTER TABLE public.models DROP model_id"
    )
    with pytest.raises(StoreMismatchError) as refused:
        await migrate(deployed.app, program="0.1.0")
    first, *faults, last = str(refused.value).splitlines()
    assert (first, last) == (f"The database does not fit, seen as the login {APP}:", "Nothing was changed.")
    assert f"- public.agents belongs to {OWNER}: migrate as that role, or as a member of it" in faults
    assert [fault for fault in faults if "it is missing" in fault] == [
        "- public.models.model_id must be text, or character varying(255) or longer, it is missing"
    ]
    assert len(faults) == len(set(faults))
    assert all(fault.startswith("- ") for fault in faults)


async def test_all_misfits_are_named_at_once(deployed: Project) -> None:
    await deployed.run("ALTER TABLE public.models DROP model_id; ALTER TABLE public.agents OWNER TO postgres")
    await expect_refusal(deployed, deployed.owner, ["public.models.model_id", "public.agents belongs to"])


async def test_a_login_that_may_not_create_roles_needs_them_to_be_there(
    deployed: Project, given_url: str | None
) -> None:
    if given_url is not None:
        pytest.skip("needs a server of its own: other databases of yours use the program's role")
    await deployed.run(f"ALTER ROLE {OWNER} NOCREATEROLE")
    try:
        await expect_refusal(
            deployed, deployed.owner, ["the role agentapi_system is missing", "CREATE ROLE agentapi_writer"]
        )
        await deployed.run(f"CREATE ROLE agentapi_system NOLOGIN NOINHERIT; GRANT agentapi_system TO {OWNER}")
        await expect_refusal(
            deployed, deployed.owner, ["the role agentapi_writer is missing", "CREATE ROLE agentapi_writer"]
        )
        await deployed.run(f"CREATE ROLE agentapi_writer NOLOGIN NOINHERIT; GRANT agentapi_writer TO {OWNER}")
        assert await migrate(deployed.owner, program="0.1.0")
    finally:
        await deployed.run(f"ALTER ROLE {OWNER} CREATEROLE")


async def test_a_role_that_walks_through_row_level_security_is_refused(deployed: Project) -> None:
    await deployed.run("ALTER ROLE authenticated BYPASSRLS")
    try:
        await expect_refusal(deployed, deployed.owner, ["the role authenticated must not be a superuser, nor bypass"])
    finally:
        await deployed.run("ALTER ROLE authenticated NOBYPASSRLS")


async def test_a_login_to_grant_to_that_is_not_there_is_refused(deployed: Project) -> None:
    before = await dump(deployed.admin)
    for name in ("nobody_here", "service_role"):
        with pytest.raises(StoreMismatchError, match=f"no login {name}"):
            await migrate(deployed.owner, program="0.1.0", grant_to=name)
    assert await dump(deployed.admin) == before


async def test_a_login_without_grants_is_told_which_command_grants_them(deployed: Project) -> None:
    await migrate(deployed.owner, program="0.1.0")
    async with open_database(RemoteServer(deployed.app), PoolOptions()) as database:
        with pytest.raises(StoreMismatchError, match="migrate --grant-to"):
            await is_current(database, program="0.1.0")
        with pytest.raises(StoreMismatchError, match="owns the tables"):
            await status(deployed.app)
        await migrate(deployed.owner, program="0.1.0", grant_to=APP)
        assert await is_current(database, program="0.1.0")
        assert await login_remark(database) is None


async def test_a_login_with_too_many_rights_is_remarked_on(deployed: Project) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=OWNER)
    for url, words in ((deployed.owner, "owns the tables"), (deployed.admin, "is a superuser")):
        async with open_database(RemoteServer(url), PoolOptions()) as database:
            remark = str(await login_remark(database))
            assert words in remark
            assert "docs/supabase.md#make-a-login" in remark


async def test_a_database_that_is_not_migrated_is_not_current(deployed: Project) -> None:
    connection = await asyncpg.connect(deployed.admin)
    there = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'agentapi_system')")
    await connection.close()
    async with open_database(RemoteServer(deployed.owner), PoolOptions()) as database:
        if there:
            with pytest.raises(StoreMismatchError):
                await is_current(database, program="0.1.0")
        else:
            assert not await is_current(database, program="0.1.0")
