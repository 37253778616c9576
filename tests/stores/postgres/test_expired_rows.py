"""A row that has expired counts as deleted, since a job deletes it some time later."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import uuid4

import pytest

from agentapi_mcp.base.ids import AgentId, new_id
from agentapi_mcp.core.access.models import Invitation
from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.conversations.models import AcceptedTurn, Obstacles
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import KeyRequest, PagePurpose
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.elicitations import PostgresElicitations
from agentapi_mcp.stores.postgres.key_requests import PostgresKeyRequests
from agentapi_mcp.stores.postgres.mcp_sessions import MOST_SESSIONS, PostgresMcpSessions
from agentapi_mcp.stores.postgres.members import PostgresMembers
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.support.members import new_member
from tests.support.new_turns import new_turn


@pytest.fixture
async def ann(database: Database) -> Principal:
    return await new_member(database)


@asynccontextmanager
async def connected(database: Database) -> AsyncGenerator[Connection]:
    async with database.as_system("test") as connection:
        yield connection


async def expire(database: Database, statement: LiteralString) -> None:
    """Let all rows of a table have expired a moment ago."""
    async with connected(database) as connection:
        await connection.execute(statement)


async def test_an_expired_key_is_the_key_of_a_new_turn(ann: Principal, database: Database) -> None:
    agent, turns = AgentId(new_id()), PostgresTurns(database)
    async with connected(database) as connection:
        await connection.execute("INSERT INTO public.agents (id, name, type) VALUES ($1, 'droid', 'custom')", agent)
    asked = new_turn(agent, "hello", key="k")
    first = await turns.begin(ann, asked)
    assert isinstance(first, AcceptedTurn)
    assert await turns.begin(ann, new_turn(agent, "hello", key="k")) == Obstacles(keyed_turn=first.turn.id)
    await expire(database, "UPDATE agentapi.idempotency_keys SET expires_at = now() - interval '1 second'")
    second = await turns.begin(ann, replace(new_turn(agent, "hello", key="k"), fingerprint=b"another message"))
    assert isinstance(second, AcceptedTurn)
    assert second.turn.id != first.turn.id


def session() -> McpSession:
    return McpSession(id=f"s-{uuid4().hex}", protocol="2025-11-25", client={"name": "raw"})


async def test_an_expired_session_is_not_found_and_asks_nothing(ann: Principal, database: Database) -> None:
    sessions, elicitations, made = PostgresMcpSessions(database), PostgresElicitations(database), session()
    await sessions.open_(ann, made)
    await elicitations.create(ann, made.id, "early")
    await expire(database, "UPDATE public.mcp_sessions SET expires_at = now() - interval '1 second'")
    assert await sessions.find(ann, made.id) is None
    assert await sessions.watch(ann, made.id, "agentapi://catalog/agents", most=1, most_of_user=9)
    await elicitations.create(ann, made.id, "late")
    assert not await elicitations.answer(ann, made.id, "early", {"result": {}})
    assert not await sessions.close(ann, made.id)
    async with connected(database) as connection:
        state = await connection.fetchval("SELECT mcp_state::text FROM public.mcp_sessions")
    assert "catalog" not in state
    assert "late" not in state


async def test_expired_sessions_are_the_first_to_make_room(ann: Principal, database: Database) -> None:
    sessions, expired, live = PostgresMcpSessions(database), [session() for _ in range(5)], session()
    for each in expired:
        await sessions.open_(ann, each)
    await expire(database, "UPDATE public.mcp_sessions SET expires_at = now() - interval '1 second'")
    await sessions.open_(ann, live)
    for _ in range(MOST_SESSIONS - 1):
        await sessions.open_(ann, session())
    assert await sessions.find(ann, live.id) == live
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT count(*) FROM public.mcp_sessions") == MOST_SESSIONS


async def test_an_expired_link_to_the_key_page_leads_nowhere(ann: Principal, database: Database) -> None:
    requests = PostgresKeyRequests(database)
    for token, lifetime in ((b"live", timedelta(minutes=5)), (b"expired", timedelta(seconds=-1))):
        await requests.add(
            KeyRequest(
                token_sha256=token,
                user_id=ann.user_id,
                org_id=ann.org_id,
                issuer="https://issuer.example",
                provider="openrouter",
                expires_at=datetime.now(UTC) + lifetime,
            )
        )
    assert await requests.find(b"live", PagePurpose.KEY) is not None
    assert await requests.find(b"expired", PagePurpose.KEY) is None
    assert await requests.consume(ann, b"expired", PagePurpose.KEY) is None


async def test_an_expired_invitation_is_neither_listed_nor_withdrawn_and_can_be_made_anew(
    ann: Principal, database: Database
) -> None:
    members, now = PostgresMembers(database), datetime.now(UTC)
    invitation = Invitation(email="bo@example.com", role="member", expires_at=now + timedelta(days=7))
    await members.invite(ann, invitation)
    await expire(database, "UPDATE agentapi.invitations SET expires_at = now() - interval '1 second'")
    assert (await members.list_(ann, now)).invitations == ()
    assert not await members.withdraw(ann, "bo@example.com")
    again = replace(invitation, role="viewer")
    await members.invite(ann, again)
    assert (await members.list_(ann, now)).invitations == (again,)
    assert await members.withdraw(ann, "bo@example.com")
