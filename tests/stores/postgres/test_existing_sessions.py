"""The program on an organisation's database, with a login that owns nothing: old conversations go on."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import AgentApiError, ConfigurationError, NotFoundError, StoreMismatchError
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.session_facts import SessionFilter
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.presentation.transcripts import render_json, render_markdown
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.migrate import migrate, status
from agentapi_mcp.web.application import WebOptions
from tests.support.connect import call
from tests.support.edges import OpenServices, mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.poolers import open_pooler
from tests.support.supabase import ACME, ALICE, APP, BARE_SESSION, BOB, BOBS_SESSION, OLD_SESSION, OWNER, Project

LONG = timedelta(seconds=25)
BROAD = """
ALTER TABLE public.chat_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.chat_messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agents ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Colleagues share" ON public.chat_sessions TO authenticated USING (true) WITH CHECK (true);
CREATE POLICY "Colleagues read" ON public.chat_messages TO authenticated USING (true) WITH CHECK (true);
"""


@asynccontextmanager
async def program(project: Project, home: Path, peer: OpenAIPeer, **changed: object) -> AsyncGenerator[Services]:
    """Open the program on a migrated project, as one of its users."""
    usual = {"home": home, "database_url": project.app, "user_id": ALICE, "org_id": ACME, "shutdown_grace_seconds": 0}
    settings = Settings.model_validate(usual | changed)
    environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
    async with open_app(settings, environ) as app:
        yield await app.services_provider.services()


def asked_of(peer: OpenAIPeer) -> list[dict[str, Any]]:
    """List what the provider was asked to answer."""
    return [json.loads(exchange.content) for exchange in peer.exchanges if exchange.path.endswith("/completions")]


async def test_old_sessions_are_listed_newest_first(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        page = await server.sessions.list_(server.principal)
        first = await server.sessions.list_(server.principal, limit=1)
        second = await server.sessions.list_(server.principal, limit=1, cursor=first.next_cursor)
        found = await server.sessions.list_(server.principal, SessionFilter(query="hello?"))
        droids = await server.sessions.list_(server.principal, SessionFilter(agent="droid"))
    assert [(s.id, s.title, s.agent, s.model, s.message_count) for s in page.items] == [
        (OLD_SESSION, "Rocket fuel", "droid", "gpt-4o", 6),
        (BARE_SESSION, None, None, None, 1),
    ]
    assert (*first.items, *second.items) == page.items
    assert [s.id for s in found.items] == [BARE_SESSION]
    assert [s.id for s in droids.items] == [OLD_SESSION]


async def test_an_old_transcript_is_read_in_order(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        transcript = await server.sessions.transcript(server.principal, str(OLD_SESSION))
        newest = await server.sessions.transcript(server.principal, str(OLD_SESSION), limit=2)
        older = await server.sessions.transcript(server.principal, str(OLD_SESSION), limit=9, cursor=newest.older)
    said = [(m.role.value, m.content, m.tokens_in) for m in transcript.messages]
    # The last three have one time: their ids order them, the same way in every page.
    assert said == [
        ("system", "Be brief.", None),
        ("user", "Which fuel?", None),
        ("assistant", "Kerosene.", 12),
        ("tool", "price: 1", None),
        ("assistant", "", None),
        ("tool", "price: 2", None),
    ]
    assert (*older.messages, *newest.messages) == transcript.messages
    assert "Kerosene." in render_markdown(transcript)
    assert len(str(render_json(transcript))) > 500


async def test_an_old_session_is_continued_with_its_history_agent_and_model(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        asked = ChatRequest(message="And the oxidiser?", session_id=str(OLD_SESSION))
        turn = await server.turns.chat(server.principal, asked, wait=LONG)
        again = ChatRequest(message="And then?", session_id=str(OLD_SESSION))
        await server.turns.chat(server.principal, again, wait=LONG)
        transcript = await server.sessions.transcript(server.principal, str(OLD_SESSION))
        bodies = asked_of(peer)
    assert (turn.status, turn.agent, turn.model) == (TurnStatus.COMPLETED, "droid", "gpt-4o")
    assert [m.content for m in transcript.messages][6:8] == ["And the oxidiser?", turn.reply]
    assert [m.created_at for m in transcript.messages] == sorted(m.created_at for m in transcript.messages)
    assert bodies[0]["model"] == "openai/gpt-4o"
    assert bodies[0]["temperature"] == 0.2
    assert bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which fuel?"},
        {"role": "assistant", "content": "Kerosene.\n\nprice: 1\n\nprice: 2"},
        {"role": "user", "content": "And the oxidiser?"},
    ]
    assert bodies[1]["messages"][:4] == bodies[0]["messages"]


async def test_a_session_without_agent_goes_on_with_the_organisations_default(
    deployed: Project, tmp_path: Path
) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        asked = ChatRequest(message="How do I add OpenRouter?", session_id=str(BARE_SESSION))
        turn = await server.turns.chat(server.principal, asked, wait=LONG)
        listed = await server.sessions.list_(server.principal)
        assert asked_of(peer) == []
    assert (turn.status, turn.agent) == (TurnStatus.COMPLETED, "guide")
    assert [s.id for s in listed.items] == [BARE_SESSION, OLD_SESSION]


@pytest.mark.parametrize("policies", ["SELECT 1", BROAD], ids=["as deployed", "policies that share"])
async def test_what_is_another_users_is_not_there(policies: str, deployed: Project, tmp_path: Path) -> None:
    await deployed.run(policies, role=OWNER)
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        listed = await server.sessions.list_(server.principal)
        assert [(s.id, s.agent) for s in listed.items] == [(OLD_SESSION, "droid"), (BARE_SESSION, None)]
        with pytest.raises(NotFoundError):
            await server.sessions.transcript(server.principal, str(BOBS_SESSION))
        with pytest.raises(NotFoundError):
            await server.sessions.delete(server.principal, str(BOBS_SESSION))
        with pytest.raises(NotFoundError):
            await server.turns.chat(
                server.principal, ChatRequest(message="Hello Bob", session_id=str(BOBS_SESSION)), wait=LONG
            )
    assert await deployed.value("SELECT count(*) FROM public.chat_messages") == 8


async def test_who_asks_is_said_by_the_settings(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer:
        async with program(deployed, tmp_path, peer, user_id=BOB) as server:
            listed = await server.sessions.list_(server.principal)
            assert [s.id for s in listed.items] == [BOBS_SESSION]
        with pytest.raises(ExceptionGroup) as nobody:
            async with program(deployed, tmp_path, peer, user_id=None, org_id=None):
                pass
        with pytest.raises(ExceptionGroup) as half:
            async with program(deployed, tmp_path, peer, org_id=None):
                pass
        with pytest.raises(ExceptionGroup) as stranger:
            async with program(deployed, tmp_path, peer, user_id=OLD_SESSION):
                pass
    for refusal in (nobody, half, stranger):
        assert refusal.group_contains(ConfigurationError, match="AGENTAPI_USER_ID")
    assert await deployed.value("SELECT count(*) FROM public.profiles") == 2


async def test_who_is_suspended_is_refused_also_as_the_user_of_the_settings(deployed: Project, tmp_path: Path) -> None:
    await deployed.run("ALTER TABLE public.profiles ADD COLUMN status text", role=OWNER)
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer:
        async with program(deployed, tmp_path, peer) as server:
            await server.turns.chat(server.principal, ChatRequest(message="Hello"), wait=LONG)
            await deployed.run("UPDATE public.profiles SET status = 'suspended'")
            with pytest.raises(AgentApiError):
                await server.turns.chat(server.principal, ChatRequest(message="Again"), wait=LONG)
            assert (await server.sessions.list_(server.principal)).items == ()
        with pytest.raises(ExceptionGroup) as refusal:
            async with program(deployed, tmp_path, peer):
                pass
    assert refusal.group_contains(ConfigurationError, match="suspended")


async def test_a_client_is_recorded_beside_those_of_other_programs(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        for version in ("1.0", "1.1"):
            state = {"version": version, "protocol": "2026-07-28"}
            await server.clients.record(server.principal, "desk", state)
            await deployed.run('UPDATE public.mcp_sessions SET mcp_state = mcp_state || \'{"theme": "dark"}\'')
        themed = "SELECT count(*) FROM public.mcp_sessions WHERE mcp_state ?& '{theme, version}'"
        assert await deployed.value(themed) == 1  # what others keep beside it stays
        await server.clients.record(server.principal, "gone", state)
        await deployed.run("UPDATE public.mcp_sessions SET expires_at = now() - interval '1 day'")
        await server.clients.record(server.principal, "desk", state)
        assert [client.client for client in await server.clients.list_(server.principal)] == ["desk"]
    assert await deployed.value(themed) == 0  # what had expired does not come back


async def test_a_2025_client_has_its_transport_session_there_as_well(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        edge = mcp_application(create_server(OpenServices(server), McpOptions()), WebOptions())
        async with serve_app(edge) as place, Client(streamable_http_client(place.mcp), mode="legacy") as client:
            assert not (await call(client, "list_sessions")).is_error
            http = "SELECT count(*) FROM public.mcp_sessions WHERE mcp_state ->> 'transport' = 'http'"
            assert await deployed.value(http) == 1


async def test_health_says_when_the_login_owns_the_tables(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    details: list[str] = []
    async with OpenAIPeer() as peer:
        for url in (deployed.app, deployed.owner, deployed.admin):
            async with program(deployed, tmp_path, peer, database_url=url) as server:
                report = await server.health.report(server.principal)
            details += [part.detail for part in report.parts if part.name == "postgres"]
    assert details[0] == "by URL"
    assert "owns the tables" in details[1]
    assert "is a superuser" in details[2]


async def test_a_database_that_is_not_ready_is_not_worked_on(deployed: Project, tmp_path: Path) -> None:
    async with OpenAIPeer() as peer:
        with pytest.raises(ExceptionGroup) as refusal:
            async with program(deployed, tmp_path, peer):
                pass
    assert refusal.group_contains(StoreMismatchError, match="agentapi-mcp migrate")


async def test_models_of_which_little_is_known_are_listed(deployed: Project, tmp_path: Path) -> None:
    await deployed.run(
        "INSERT INTO public.models (agent_id, name) SELECT id, 'house-model' FROM public.agents WHERE name = 'droid'"
    )
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        agent = await server.agents.get(server.principal, "droid")
    found = [(model.provider, model.model_id) for model in agent.models if model.name == "house-model"]
    assert found == [("unknown", "house-model")]


async def test_a_transaction_pooler_does_without_prepared_statements(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    async with open_pooler(deployed.app) as (pooler, url), OpenAIPeer() as peer:
        async with program(deployed, tmp_path, peer, database_url=url) as server:
            for _ in range(3):
                asked = ChatRequest(message="And the oxidiser?", session_id=str(OLD_SESSION))
                turn = await server.turns.chat(server.principal, asked, wait=LONG)
                assert turn.status is TurnStatus.COMPLETED
                await server.turns.get(server.principal, str(turn.id), wait=LONG)
            transcript = await server.sessions.transcript(server.principal, str(OLD_SESSION))
            assert len(transcript.messages) == 6 + 2 * len(asked_of(peer))
        assert min(pooler.transactions) > 10


async def test_prepared_statements_fail_behind_a_transaction_pooler(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)

    async def list_often(url: str, peer: OpenAIPeer) -> None:
        async with program(deployed, tmp_path, peer, database_url=url, statement_cache=True) as server:
            # Until the pooler switches the connection under a statement; other statements can put that off.
            async with asyncio.timeout(25):
                while True:
                    await server.sessions.list_(server.principal)

    async with open_pooler(deployed.app) as (_, url), OpenAIPeer() as peer:
        with pytest.raises(ExceptionGroup) as refusal:
            await list_often(url, peer)
    assert refusal.group_contains(StoreMismatchError, match="AGENTAPI_STATEMENT_CACHE=false")


async def test_the_migrations_run_through_a_transaction_pooler(deployed: Project) -> None:
    async with open_pooler(deployed.owner) as (_, url):
        assert await migrate(url, program="0.1.0", grant_to=APP)
        assert await migrate(url, program="0.1.0", grant_to=APP) == ()
        assert all(state.applied_at is not None for state in await status(url))
