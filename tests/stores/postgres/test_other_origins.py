"""Tables that were made by other designs: what they lack is added and told, and all that does not fit is named."""

import re
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from agentapi_mcp.base.errors import StoreMismatchError, StoreUnavailableError
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.stores.postgres.migrate import Plan, find_other_tables, migrate, preview, run_migration
from tests.stores.postgres.test_existing_sessions import program
from tests.support.dumps import dump
from tests.support.peers.openai import OpenAIPeer
from tests.support.supabase import ALICE, APP, OWNER, Project

# The smallest tables for agents and chats beside an organisation's profiles.
MINIMAL = """
CREATE TABLE public.agents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) NOT NULL UNIQUE, type varchar(50) NOT NULL,
    enabled boolean DEFAULT true, config jsonb, created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE TABLE public.models (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), agent_id uuid NOT NULL REFERENCES public.agents (id),
    name varchar(255) NOT NULL, display_name varchar(255), provider varchar(100), model_id varchar(255),
    enabled boolean DEFAULT true, config jsonb, created_at timestamptz DEFAULT now(), UNIQUE (agent_id, name)
);
CREATE TABLE public.chat_sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES public.profiles (id),
    org_id uuid NOT NULL REFERENCES public.organizations (id), model_id uuid REFERENCES public.models (id),
    agent_id uuid REFERENCES public.agents (id), title varchar(255), metadata jsonb,
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE TABLE public.chat_messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id uuid NOT NULL REFERENCES public.chat_sessions (id) ON DELETE CASCADE,
    role varchar(50) NOT NULL, content text NOT NULL, tokens_in integer, tokens_out integer,
    created_at timestamptz DEFAULT now()
);
CREATE TABLE public.agent_health (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), agent_id uuid NOT NULL UNIQUE REFERENCES public.agents (id),
    status varchar(50), last_check timestamptz, updated_at timestamptz DEFAULT now()
);
INSERT INTO public.agents (name, type) VALUES ('droid', 'droid');
"""
LACKED = {
    *("agents.description", "models.description", "models.updated_at", "chat_sessions.last_message_at"),
    *("chat_messages.metadata", "chat_messages.tokens_total", "agent_health.last_error"),
    "agent_health.consecutive_failures",
}
# A platform in which users make agents: their own users and teams, and names that need not be unique.
PLATFORM = """
CREATE TABLE public.users (
    id uuid PRIMARY KEY REFERENCES auth.users (id), email varchar(255) NOT NULL UNIQUE, full_name varchar(255)
);
CREATE TABLE public.teams (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), slug varchar(100) NOT NULL UNIQUE);
CREATE TABLE public.user_roles (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid REFERENCES public.users (id),
    team_id uuid REFERENCES public.teams (id)
);
CREATE TABLE public.agents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) NOT NULL, description text,
    type varchar(100) NOT NULL, status varchar(50) DEFAULT 'inactive', config jsonb NOT NULL DEFAULT '{}',
    deployment_config jsonb DEFAULT '{}', created_by uuid REFERENCES public.users (id) ON DELETE CASCADE,
    team_id uuid REFERENCES public.teams (id), created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now(), last_activity timestamptz
);
CREATE INDEX idx_agents_created_by ON public.agents (created_by);
ALTER TABLE public.agents ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Own agents" ON public.agents USING (auth.uid() = created_by);
CREATE POLICY "Agents of the team" ON public.agents FOR SELECT USING (EXISTS (
    SELECT FROM public.user_roles r WHERE r.user_id = auth.uid() AND r.team_id = agents.team_id));
CREATE TRIGGER update_agents_updated_at BEFORE UPDATE ON public.agents
    FOR EACH ROW EXECUTE FUNCTION public.update_updated_at_column();
INSERT INTO public.users (id, email) SELECT id, email FROM auth.users;
INSERT INTO public.agents (name, type, created_by) SELECT 'market of ' || email, 'market', id FROM public.users;
"""
TWICE = "INSERT INTO public.agents (name, type) VALUES ('twice', 'x'), ('twice', 'x')"


async def without_older_tables(project: Project) -> None:
    """Take away what such a platform has not."""
    await project.run("DROP TABLE public.projects, public.mcp_sessions, public.organization_members CASCADE")
    await project.run("DROP TABLE public.profiles, public.organizations CASCADE; DROP TYPE public.member_role")


async def chats(project: Project, home: Path, **settings: object) -> None:
    """Answer a message on a migrated database."""
    async with OpenAIPeer() as peer, program(project, home, peer, **settings) as server:
        turn = await server.turns.chat(
            server.principal, ChatRequest(message="Hello", agent="droid"), wait=timedelta(seconds=25)
        )
        listed = await server.sessions.list_(server.principal)
    assert turn.status is TurnStatus.COMPLETED
    assert [each.agent for each in listed.items] == ["droid"]


async def test_tables_that_lack_columns_get_them_and_it_is_told(project: Project, tmp_path: Path) -> None:
    await project.run(MINIMAL, role=OWNER)
    plan = await preview(project.owner, program="0.1.0", grant_to=APP)
    assert {f"create column public.{name}" for name in LACKED} == {
        line for line in plan.changes if line.startswith("create column public.")
    }
    done = await run_migration(project.owner, Plan("0.1.0", APP))
    assert set(done.added) == {f"the column public.{name}" for name in LACKED}
    assert (await run_migration(project.owner, Plan("0.1.0", APP))).added == ()
    assert await project.value("SELECT count(*) FROM (SELECT * FROM public.agents) AS a", user=ALICE) == 1
    await chats(project, tmp_path)


async def test_what_is_added_leaves_a_row_as_it_was(project: Project) -> None:
    await project.run(MINIMAL, role=OWNER)
    before = await project.value("SELECT to_jsonb(a) FROM public.agents a")
    await migrate(project.owner, program="0.1.0")
    assert await project.value("SELECT to_jsonb(a) - 'description' FROM public.agents a") == before


async def test_a_platform_of_another_design_is_taken(project: Project, tmp_path: Path) -> None:
    await without_older_tables(project)
    await project.run(PLATFORM, role=OWNER)
    done = await run_migration(project.owner, Plan("0.1.0", APP))
    assert done.added == ("the column public.agents.enabled", "a unique index on public.agents (name)")
    own = "SELECT string_agg(name, ',') FROM (SELECT * FROM public.agents) AS a"
    assert await project.value(own, user=ALICE) == "market of alice@acme.example"
    assert await project.value("SELECT count(*) FROM public.agents", user=ALICE, role="service_role") == 2
    await chats(project, tmp_path, user_id=None, org_id=None)


async def test_names_that_are_there_twice_are_named(project: Project) -> None:
    await without_older_tables(project)
    await project.run(PLATFORM, role=OWNER)
    await project.run(TWICE)
    before = await dump(project.admin)
    with pytest.raises(StoreMismatchError, match=r"several rows of public.agents have the same name \(twice\)"):
        await migrate(project.owner, program="0.1.0")
    assert await dump(project.admin) == before


async def test_everything_in_the_way_is_named_by_the_first_refusal(deployed: Project, given_url: str | None) -> None:
    if given_url is not None:
        pytest.skip("needs a server of its own: other databases of yours use the program's roles")
    await deployed.run(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO postgres', current_database()); END $$; "
        f"GRANT CREATE ON SCHEMA public TO {OWNER}; ALTER ROLE {OWNER} NOCREATEROLE; "
        f"REVOKE ADMIN OPTION FOR authenticated FROM {OWNER} CASCADE; "
        "DROP SCHEMA auth CASCADE; ALTER TABLE public.models DROP model_id; "
        "GRANT SELECT ON public.chat_messages TO public; "
        "CREATE INDEX agentapi_mcp_sessions_expires ON public.projects (title); "
        "CREATE INDEX agentapi_agents_name ON public.projects (title)"
    )
    try:
        with pytest.raises(StoreMismatchError) as refused:
            await migrate(deployed.owner, program="0.1.0", grant_to="nobody_here")
    finally:
        await deployed.run(f"GRANT authenticated TO {OWNER} WITH ADMIN OPTION; ALTER ROLE {OWNER} CREATEROLE")
    for fault in (
        "The login lacks GRANT CREATE ON DATABASE",
        "the role agentapi_system is missing and the login may not create it: CREATE ROLE agentapi_system",
        "the role agentapi_writer is missing",
        f"may not grant the role agentapi_writer: as an administrator run GRANT agentapi_writer TO {OWNER} WITH ADMIN",
        f"may not grant the role authenticated: as an administrator run GRANT authenticated TO {OWNER} WITH ADMIN",
        "There is no login nobody_here",
        "public.models.model_id must be",
        "there is something named public.agentapi_mcp_sessions_expires",
        "there is something named public.agentapi_agents_name",
        "everybody may select public.chat_messages by a grant to PUBLIC",
    ):
        assert fault in str(refused.value)
    assert str(refused.value).count("The database does not fit") == 1
    assert str(refused.value).casefold().count("the login lacks grant create on database") == 1
    assert str(refused.value).endswith("Nothing was changed.")


async def test_what_the_refusal_names_is_all_that_an_administrator_has_to_do(
    deployed: Project, given_url: str | None
) -> None:
    if given_url is not None:
        pytest.skip("needs a server of its own: other databases of yours use the program's roles")
    await deployed.run(f"ALTER ROLE {OWNER} NOCREATEROLE")
    try:
        with pytest.raises(StoreMismatchError) as refused:
            await migrate(deployed.owner, program="0.1.0", grant_to=APP)
        said = str(refused.value)
        statements = re.findall(r"(?:: (?=CREATE ROLE)| run (?=GRANT ))(.*)", said)
        assert len(statements) == 4
        await deployed.run("; ".join(statements))  # in the order in which they are named
        assert await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    finally:
        await deployed.run(f"ALTER ROLE {OWNER} CREATEROLE")


async def test_a_table_in_use_is_not_waited_for_when_it_lacks_a_column(project: Project) -> None:
    await project.run(MINIMAL, role=OWNER)
    holder = await asyncpg.connect(project.admin)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE public.models IN ACCESS SHARE MODE")
            with pytest.raises(StoreUnavailableError, match="Another transaction"):
                await migrate(project.owner, program="0.1.0", lock_timeout=timedelta(milliseconds=50))
    finally:
        await holder.close()


async def test_tables_of_others_are_found_before_some_are_created_beside_them(
    project: Project, deployed: Project
) -> None:
    found = await find_other_tables(project.owner, "DATABASE_URL")
    assert found is not None
    assert found.examples == "mcp_sessions, organization_members, organizations, profiles, projects"
    assert found.created == ("agents", "models", "chat_sessions", "chat_messages", "agent_health")
    assert found.variable == "DATABASE_URL"
    assert await find_other_tables(deployed.owner) is None  # nothing is created in public
    await migrate(project.owner, program="0.1.0")
    assert await find_other_tables(project.owner) is None
    await project.run("CREATE TABLE public.later (id int)")
    assert await find_other_tables(project.owner) is None


async def test_an_empty_database_has_no_tables_of_others(project: Project) -> None:
    await project.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    assert await find_other_tables(project.owner) is None
