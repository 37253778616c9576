"""A chat client that starts the MCP server over stdio, as MCP clients do."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from typing_extensions import override

from agentapi_mcp.base.errors import BackendError, BackendFault, InvalidRequestError
from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.base.paging import Page, read_all
from agentapi_mcp.cli.chat.clients import ChatClient, Following
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.replies import ChatReply, in_commands, to_reply
from agentapi_mcp.client import AgentClient, Answer, ClientError, ConnectionLostError, TurnError, connect
from agentapi_mcp.presentation.models import AgentOut, ModelOut, SessionOut


class McpChatClient(ChatClient):
    """A chat client that sends messages as MCP tool calls."""

    def __init__(self, agents: AgentClient) -> None:
        self._agents = agents

    @override
    async def agents(self) -> list[AgentOut]:
        with _told():
            return await self._agents.agents()

    @override
    async def default_agent(self) -> str | None:
        with _told():
            return (await self._agents.call("list_agents", {}))["default"]

    @override
    async def models(self, agent: str | None) -> list[ModelOut]:
        with _told():
            return await self._agents.models(agent)

    @override
    async def sessions(self, cursor: str | None) -> Page[SessionOut]:
        with _told():
            answer = await self._agents.call("list_sessions", {"cursor": cursor})
        sessions = tuple(SessionOut.model_validate(session) for session in answer["sessions"])
        return Page(sessions, answer["next_cursor"])

    @override
    async def transcript(self, session_id: str) -> str:
        async def read(cursor: str | None) -> Page[str]:
            part = await self._agents.call("get_transcript", {"session_id": session_id, "cursor": cursor})
            return Page((part["markdown"],), part["next_cursor"])

        with _told():
            newest, *older = await read_all(read)
        # Each part begins with the heading of the session, which stands once.
        parts = [part.partition("\n## ")[2] for part in (newest, *older)]
        return newest.partition("\n## ")[0] + "".join(f"\n## {part}" for part in reversed(parts) if part)

    @override
    async def send(self, options: ChatOptions, message: str, following: Following) -> ChatReply:
        answer = self._agents.ask(_arguments(options, message))
        following.turn_id = lambda: answer.turn_id
        with _told():
            async with asyncio.TaskGroup() as group:
                cancelling = group.create_task(_cancel_when(following.interrupted, answer))
                try:
                    async for piece in answer:
                        following.on_text(piece)
                    turn = await answer
                except TurnError as ended:
                    turn = ended.turn
                finally:
                    cancelling.cancel()
        return to_reply(in_commands(turn.model_dump()), options.request(message))


async def _cancel_when(interrupted: asyncio.Event, answer: Answer) -> None:
    await interrupted.wait()
    await answer.cancel()


@contextmanager
def _told() -> Generator[None]:
    """Raise the errors of the client as those of commands."""
    try:
        yield
    except (ClientError, ExceptionGroup) as exc:
        reason = innermost(exc)
        if not isinstance(reason, ClientError):
            raise
        if isinstance(reason, ConnectionLostError):
            raise BackendError(BackendFault.CONNECTION, str(reason), next_step=_after_loss(reason)) from exc
        raise InvalidRequestError(str(reason)) from exc


def _after_loss(lost: ConnectionLostError) -> str:
    if lost.turn_id is None:
        return ""
    return (
        f"The turn {lost.turn_id} goes on, or is settled, without it: `agentapi-mcp turns show {lost.turn_id}` shows "
        "what became of it."
    )


@asynccontextmanager
async def open_mcp_chat_client() -> AsyncGenerator[McpChatClient]:
    """Start the server as a client does, and connect."""
    async with AsyncExitStack() as stack:
        with _told():
            agents = await stack.enter_async_context(connect(name="agentapi-mcp-chat"))
        yield McpChatClient(agents)


def _arguments(options: ChatOptions, message: str) -> dict[str, object]:
    return {
        "message": message,
        "agent": options.agent,
        "model": options.model,
        "session_id": options.session_id,
        "idempotency_key": options.idempotency_key,
        "retry": options.retry or None,
        "new": options.new or None,
        "system_prompt": options.parameters.system_prompt,
        "temperature": options.parameters.temperature,
        "max_tokens": options.parameters.max_tokens,
        "max_cost_usd": None if options.max_cost_usd is None else float(options.max_cost_usd),
    }
