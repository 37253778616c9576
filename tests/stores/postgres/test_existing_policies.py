"""A database with policies of its own: they neither stop the program nor open what is its users'."""

import json
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.errors import AgentApiError, NotFoundError
from agentapi_mcp.base.ids import AgentId, OrgId, SessionId, UserId
from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.conversations.models import AcceptedTurn
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.stores.postgres.database import Connection, Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.elicitations import PostgresElicitations
from agentapi_mcp.stores.postgres.mcp_sessions import PostgresMcpSessions
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.organizations import PostgresOrganizations
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.support.new_turns import new_turn
from tests.support.supabase import ACME, ALICE, APP, BOB, OLD_SESSION, OWNER, Project

ANN = Principal(UserId(ALICE), OrgId(ACME), Role.OWNER)
VIEWER = Principal(UserId(BOB), OrgId(ACME), Role.VIEWER, frozenset({TokenScope.KEYS}))
MEMBER = Principal(UserId(BOB), OrgId(ACME), Role.MEMBER)
OPERATOR = Principal(UserId(UUID("c0a1d4c3-5b6f-4f0a-8b2e-1a9c8d7e6f12")), OrgId(UUID(int=0)), Role.OWNER)
BY_MEMBERSHIP = """
ALTER TABLE public.chat_sessions ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Members use sessions" ON public.chat_sessions USING
    (org_id IN (SELECT m.organization_id FROM public.organization_members m
                  JOIN public.profiles p ON p.id = m.user_id WHERE p.id = auth.uid() AND p.full_name IS NOT NULL));
"""
OPEN = """
ALTER TABLE public.chat_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.chat_messages ENABLE ROW LEVEL SECURITY;
CREATE POLICY "All sessions" ON public.chat_sessions USING (true);
CREATE POLICY "All messages" ON public.chat_messages USING (session_id IN (SELECT id FROM public.chat_sessions));
CREATE POLICY "All organisations" ON public.organizations FOR UPDATE USING (true);
"""


async def droid(database: Database) -> AgentId:
    async with database.as_system("test") as connection:
        return AgentId(await connection.fetchval("SELECT id FROM public.agents WHERE name = 'droid'"))


@pytest.mark.parametrize("policies", ["SELECT 1", BY_MEMBERSHIP, OPEN])
async def test_the_program_works_beside_policies_for_everybody(policies: str, deployed: Project) -> None:
    await deployed.run(policies, role=OWNER)
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with open_database(RemoteServer(deployed.app), PoolOptions()) as database:
        turns, organizations = PostgresTurns(database), PostgresOrganizations(database)
        accepted = await turns.begin(ANN, new_turn(await droid(database), "hello"))
        assert isinstance(accepted, AcceptedTurn)
        assert (await turns.request_cancel(ANN, accepted.turn.id)).id == accepted.turn.id
        await PostgresSessions(database).rename(ANN, accepted.turn.session_id, "Mine")
        await organizations.change(ANN, {"temperature": 0.5})
        await organizations.limit(OPERATOR, ANN.org_id, "max_running_turns", 3)
        read = await organizations.get(ANN)
        assert (read.name, read.settings.temperature, read.numbers.members) == ("Acme", 0.5, 2)
        assert {limit.resource: (limit.used, limit.most) for limit in read.limits} == {
            Resource.CONVERSATIONS: (read.numbers.sessions, None),
            Resource.RUNNING_TURNS: (1, 3),
            Resource.RUNNING_BYTES: (len("hello"), None),
        }


async def test_policies_for_everybody_open_nothing_to_the_programs_writer(deployed: Project) -> None:
    await deployed.run(OPEN, role=OWNER)
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with open_database(RemoteServer(deployed.app), PoolOptions()) as database:
        with pytest.raises(NotFoundError):
            await PostgresTurns(database).begin(
                MEMBER, new_turn(await droid(database), "forged", SessionId(OLD_SESSION))
            )
        for principal in (MEMBER, VIEWER):
            with pytest.raises(NotFoundError):
                await PostgresSessions(database).defaults(principal, SessionId(OLD_SESSION))
            async with database.as_writer(principal) as connection:
                hers = "SELECT count(*) FROM public.chat_sessions WHERE user_id = $1"
                assert await connection.fetchval(hers, ALICE) == 0
                told = "SELECT count(*) FROM public.chat_messages WHERE session_id = $1"
                assert await connection.fetchval(told, OLD_SESSION) == 0
                for change in (
                    "UPDATE public.chat_sessions SET title = 'forged' WHERE user_id = $1",
                    "DELETE FROM public.chat_sessions WHERE user_id = $1",
                ):
                    assert (await connection.execute(change, ALICE)).endswith(" 0")
            with pytest.raises((asyncpg.PostgresError, AgentApiError)):
                async with database.as_writer(principal) as connection:
                    await forge_message(connection)


async def forge_message(connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO public.chat_messages (session_id, role, content) VALUES ($1, 'user', 'forged')", OLD_SESSION
    )


@pytest.mark.parametrize("has_policies", [True, False])
async def test_settings_are_their_administrators_though_the_table_has_no_policies(
    deployed: Project, *, has_policies: bool
) -> None:
    if not has_policies:
        await deployed.run("ALTER TABLE public.organizations DISABLE ROW LEVEL SECURITY", role=OWNER)
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    other = OrgId(UUID("e0a1d4c3-5b6f-4f0a-8b2e-1a9c8d7e6f11"))
    async with open_database(RemoteServer(deployed.app), PoolOptions()) as database:
        organizations = PostgresOrganizations(database)
        for who in (VIEWER, MEMBER, Principal(UserId(ALICE), other, Role.OWNER)):
            with pytest.raises(AgentApiError):
                await organizations.change(who, {"system_prompt": "forged"})
            with pytest.raises(NotFoundError):
                await organizations.get(who)
    assert "forged" not in str(await deployed.value("SELECT string_agg(settings::text, ' ') FROM public.organizations"))


@pytest.mark.parametrize("policies", [False, True])
async def test_no_outside_client_reads_of_another_users_clients(deployed: Project, *, policies: bool) -> None:
    if policies:
        await deployed.run(
            "ALTER TABLE public.mcp_sessions ENABLE ROW LEVEL SECURITY; "
            "CREATE POLICY everybody ON public.mcp_sessions USING (true)",
            role=OWNER,
        )
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with open_database(RemoteServer(deployed.app), PoolOptions()) as database:
        sessions, questions = PostgresMcpSessions(database), PostgresElicitations(database)
        await sessions.open_(ANN, McpSession(id="hers", protocol="2025-11-25"))
        await questions.create(ANN, "hers", "q")
        await questions.answer(ANN, "hers", "q", {"result": {"content": "private"}})
    seen = "SELECT coalesce(string_agg(session_id || mcp_state::text, ' '), '') FROM public.mcp_sessions"
    assert "hers" not in await query_as(deployed, "authenticated", BOB, seen)
    assert "denied" in await query_as(deployed, "anon", BOB, seen)
    if policies:
        assert "private" in await query_as(deployed, "authenticated", ALICE, seen)
    everything = ("mcp_sessions", "agents", "models", "agent_health", "chat_sessions", "chat_messages")
    for table in everything:
        assert "denied" in await query_as(deployed, "anon", ALICE, f"SELECT count(*) FROM public.{table}")  # noqa: S608  # ours
    # A secret was found in one column, which others than its owner could read.
    assert "denied" in await query_as(deployed, "authenticated", ALICE, "SELECT config FROM public.agents")
    tokens = "SELECT string_agg(session_id, ' ') FROM public.mcp_sessions WHERE oauth_data IS NOT NULL"
    assert "old-client" in await query_as(deployed, "authenticated", ALICE, tokens)
    assert await query_as(deployed, "authenticated", BOB, tokens) == "None"


async def query_as(project: Project, role: str, user_id: UUID, statement: str) -> str:
    """Run a query as an outside client, and return its value or the refusal."""
    connection = await asyncpg.connect(project.admin)
    try:
        await connection.execute(f"SET ROLE {role}")
        claims = json.dumps({"sub": str(user_id), "role": role})
        await connection.execute("SELECT set_config('request.jwt.claims', $1, false)", claims)
        return str(await connection.fetchval(statement))
    except asyncpg.InsufficientPrivilegeError as exc:
        return str(exc)
    finally:
        await connection.close()
