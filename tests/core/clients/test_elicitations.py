"""Questions to clients over a real database: the answer may come to another process."""

import asyncio
from uuid import uuid4

from agentapi_mcp.core.clients.elicitations import Elicitations
from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.clients.transport_sessions import TransportSessions
from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.elicitations import PostgresElicitations
from agentapi_mcp.stores.postgres.mcp_sessions import PostgresMcpSessions
from tests.conftest import DatabaseUrls
from tests.support.members import new_member
from tests.support.signals import listening

ANSWER = {"result": {"action": "accept", "content": {"name": "Zoë"}}}


async def test_an_answer_is_told_once_and_read_by_who_was_asked(
    database: Database, database_urls: DatabaseUrls
) -> None:
    ann, bob, session_id = await new_member(database), await new_member(database), f"s-{uuid4().hex}"
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    async with listening(database_urls.app) as signals:
        sessions = TransportSessions(PostgresMcpSessions(database), signals)
        elicitations = Elicitations(PostgresElicitations(database), signals)
        stop = elicitations.on_answer(lambda session, question: heard.put_nowait((session, question)))
        await sessions.open_(ann, McpSession(id=session_id, protocol="2025-11-25"))
        assert not await elicitations.answer(ann, session_id, "q", ANSWER)  # nothing was asked yet
        await elicitations.create(ann, session_id, "q")
        assert await elicitations.find_answer(ann, session_id, "q") is None
        assert not await elicitations.answer(bob, session_id, "q", ANSWER)
        await sessions.notify_cancelled(ann, session_id, "q", Departure.UNCLEAR)  # a signal that is no answer
        assert await elicitations.answer(ann, session_id, "q", ANSWER)
        assert not await elicitations.answer(ann, session_id, "q", {"result": {}})
        assert await heard.get() == (session_id, "q")
        assert await elicitations.find_answer(bob, session_id, "q") is None
        assert await elicitations.find_answer(ann, session_id, "q") == ANSWER
        stop()
        await elicitations.withdraw(ann, session_id, "q")
        assert await elicitations.find_answer(ann, session_id, "q") is None
        assert not await elicitations.answer(ann, session_id, "q", ANSWER)
    assert heard.empty()
