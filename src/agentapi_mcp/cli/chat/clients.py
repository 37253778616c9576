"""What the chat of the terminal needs of the program, whether in this process or behind the MCP server."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from typing_extensions import override

from agentapi_mcp.base.paging import Page, read_all
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.found_sessions import find_session, whole_transcript
from agentapi_mcp.cli.replies import ChatReply, Fields, to_reply, turn_fields
from agentapi_mcp.core.backends.events import TextDelta
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.services import Services
from agentapi_mcp.presentation.agents import agent_out, model_out
from agentapi_mcp.presentation.models import AgentOut, ModelOut, SessionOut
from agentapi_mcp.presentation.sessions import session_out
from agentapi_mcp.presentation.transcripts import render_markdown
from agentapi_mcp.presentation.turns import estimate_fields


@dataclass(slots=True)
class Following:
    """How an answer is followed: the event that cancels it, who hears its text, and whose text it is, once known."""

    interrupted: asyncio.Event
    on_text: Callable[[str], None] = lambda _: None
    turn_id: Callable[[], str | None] = lambda: None


class ChatClient(Protocol):
    """Sends messages to agents, and reads what there is."""

    async def agents(self) -> list[AgentOut]:
        """List the agents."""
        ...

    async def default_agent(self) -> str | None:
        """Return the agent that answers where none is named."""
        ...

    async def models(self, agent: str | None) -> list[ModelOut]:
        """List the models of an agent, or of all."""
        ...

    async def sessions(self, cursor: str | None) -> Page[SessionOut]:
        """Read a page of the sessions, newest first."""
        ...

    async def session_id(self, turn_id: str) -> str:
        """Return the id of the session that a turn is in."""
        ...

    async def transcript(self, session_id: str) -> str:
        """Read a session's whole transcript as Markdown."""
        ...

    async def send(self, options: ChatOptions, message: str, following: Following) -> ChatReply:
        """Send a message and follow the turn to its end; cancel it when that is asked for."""
        ...

    async def estimate(self, options: ChatOptions, message: str) -> Fields:
        """Return what a message may cost, in the fields of a turn; nobody is asked."""
        ...


async def session_of(client: ChatClient, options: ChatOptions) -> SessionOut | None:
    """Return the session that the options name or mean.

    Raises:
        InvalidRequestError: the id is too short.
        NotFoundError: no session fits, or more than one.
    """
    if options.newest:
        newest = await client.sessions(None)
        return newest.items[0] if newest.items else None
    return None if options.session_id is None else await find_named(client, options.session_id)


async def find_named(client: ChatClient, text: str) -> SessionOut | None:
    """Return the session whose id begins or ends with a text; None for a whole id that is not in the list."""
    seen = dict[str, SessionOut]()

    async def read(cursor: str | None) -> Page[str]:
        page = await client.sessions(cursor)
        seen.update((session.session_id, session) for session in page.items)
        return Page(tuple(session.session_id for session in page.items), page.next_cursor)

    return seen.get(await find_session(read, text))


class InProcessChatClient(ChatClient):
    """A chat client that calls the use cases in this process."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @override
    async def agents(self) -> list[AgentOut]:
        services = self._services
        views = await read_all(lambda cursor: services.agents.list_(services.principal, cursor=cursor))
        return [agent_out(view) for view in views]

    @override
    async def default_agent(self) -> str | None:
        return await self._services.agents.default(self._services.principal)

    @override
    async def models(self, agent: str | None) -> list[ModelOut]:
        services = self._services
        views = await read_all(lambda cursor: services.agents.models(services.principal, agent=agent, cursor=cursor))
        return [model_out(view) for view in views]

    @override
    async def sessions(self, cursor: str | None) -> Page[SessionOut]:
        page = await self._services.sessions.list_(self._services.principal, cursor=cursor, limit=200)
        return Page(tuple(session_out(session) for session in page.items), page.next_cursor)

    @override
    async def session_id(self, turn_id: str) -> str:
        return str((await self._services.turns.get(self._services.principal, turn_id)).session_id)

    @override
    async def transcript(self, session_id: str) -> str:
        return render_markdown(await whole_transcript(self._services, session_id))

    @override
    async def send(self, options: ChatOptions, message: str, following: Following) -> ChatReply:
        principal, turns = self._services.principal, self._services.turns
        request = options.request(message)
        turn = await turns.start(principal, request)
        following.turn_id = lambda: str(turn.id)
        async with asyncio.TaskGroup() as group:
            cancelling = group.create_task(self._cancel_when(following.interrupted, turn))
            async for event in turns.follow(principal, turn):
                if isinstance(event, TextDelta):
                    following.on_text(event.text)
            cancelling.cancel()
        ended = await turns.get(principal, str(turn.id))
        turns.delivered(ended)
        return to_reply(turn_fields(replace(ended, joined=turn.joined)), request)

    @override
    async def estimate(self, options: ChatOptions, message: str) -> Fields:
        estimate = await self._services.turns.estimate(self._services.principal, options.request(message))
        return estimate_fields(estimate, options.max_cost_usd)

    async def _cancel_when(self, interrupted: asyncio.Event, turn: Turn) -> None:
        await interrupted.wait()
        await self._services.turns.cancel(self._services.principal, str(turn.id))
