"""Agents that no file declares: kept for what refers to them, and taken out of the lists by the operator."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError
from agentapi_mcp.core.audit.models import AuditAction, AuditFilter
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from tests.core.catalogue.test_reload import Program, program
from tests.support.peers.openai import OpenAIPeer


async def until_undeclared(at: Program, name: str, *, there: bool = True) -> None:
    async with asyncio.timeout(30):
        while (name in await at.undeclared()) is not there:
            await at.agents()  # which reads the database, so that the loop gets to the notification


async def test_a_removed_agent_leaves_what_refers_to_it_and_comes_back_when_declared(
    edge_home: Path, tmp_path: Path
) -> None:
    async with OpenAIPeer() as peer, program(edge_home, tmp_path, peer) as at:
        services, operator = at.services, at.services.principal
        at.write()
        await at.until(at.name)
        turn = await at.ask(ChatRequest(message="hello", agent=at.name))
        at.file.write_text("", encoding="utf-8")
        await until_undeclared(at, at.name)
        before = await services.turns.get(operator, str(turn.id), wait=timedelta(0))
        await services.undeclared_agents.remove(operator, at.name)
        assert at.name not in await at.undeclared()
        assert await services.turns.get(operator, str(turn.id), wait=timedelta(0)) == before
        session = await services.sessions.get(operator, str(turn.session_id))
        assert (session.agent, before.agent, before.status) == (at.name, at.name, TurnStatus.COMPLETED)
        with pytest.raises(NotFoundError, match=f"The agent {at.name} was removed"):
            await at.ask(ChatRequest(message="again", session_id=str(turn.session_id)))
        with pytest.raises(NotFoundError, match=f"There is no agent '{at.name}'"):
            await services.undeclared_agents.remove(operator, at.name)
        events = await services.audit.list_(operator, AuditFilter(action=AuditAction.AGENT_REMOVED))
        assert [event.details for event in events.items if event.details["agent"] == at.name] == [{"agent": at.name}]
        at.write()
        await at.until(at.name)
        again = await at.ask(ChatRequest(message="again", session_id=str(turn.session_id)))
        assert (again.agent, again.session_id) == (at.name, turn.session_id)
        at.file.write_text("", encoding="utf-8")
        await until_undeclared(at, at.name)


async def test_an_agent_removed_here_goes_on_where_another_file_declares_it(edge_home: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    async with OpenAIPeer() as peer, program(edge_home, one, peer) as using, program(edge_home, two, peer) as removing:
        using.write()
        await using.until(using.name)
        await until_undeclared(removing, using.name)
        await removing.services.undeclared_agents.remove(removing.services.principal, using.name)
        assert using.name not in await removing.undeclared()
        await using.services.agents.refresh()
        turn = await using.ask(ChatRequest(message="hello", agent=using.name))
        assert turn.status is TurnStatus.COMPLETED


async def test_a_row_that_stands_for_a_declared_agent_is_not_ours_to_remove(edge_home: Path, tmp_path: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, tmp_path, peer) as at:
        at.write()
        await at.until(at.name)
        with pytest.raises(InvalidRequestError, match="by a row that another program wrote"):
            await at.services.undeclared_agents.remove(at.services.principal, at.name)
        assert (await at.agents())[at.name] == ()
