"""A chat client that starts the MCP server over stdio, as MCP clients do."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from typing_extensions import override

from agentapi_mcp import client
from agentapi_mcp.base.errors import BackendError, BackendFault, BudgetExceededError, InvalidRequestError
from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.base.json_values import as_member
from agentapi_mcp.base.paging import Page, read_all
from agentapi_mcp.cli.chat.clients import ChatClient, Following
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.replies import ChatReply, Fields, in_commands, to_reply
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.client import (
    AgentClient,
    Answer,
    ClientError,
    ConnectionLostError,
    RefusedError,
    Turn,
    TurnError,
    connect,
)
from agentapi_mcp.presentation.models import AgentOut, ModelOut, SessionOut

T = TypeVar("T")
Connecting = Callable[[], AbstractAsyncContextManager[AgentClient]]
_CONNECTING = partial(connect, name="agentapi-mcp-chat")


class _Server:
    """The connection to the server, which is opened anew after it was lost."""

    def __init__(self, connecting: Connecting, group: asyncio.TaskGroup) -> None:
        self._connecting = connecting
        self._group = group
        self._opening = asyncio.Lock()
        self._agents: AgentClient | None = None
        self._left = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None
        self._has_ended = False
        self.openings = 0

    async def agents(self) -> AgentClient:
        """Return what asks the server; open a connection where there is none."""
        async with self._opening:
            if self._has_ended:
                raise ConnectionLostError("The conversation has ended.")
            if self._agents is None:
                await self._close()
                opened: asyncio.Future[AgentClient] = asyncio.get_running_loop().create_future()
                self._left = asyncio.Event()
                # In a task of its own, since who needs it may be a completion that nobody waits for.
                self._holding = self._group.create_task(self._hold(opened, self._left))
                self._agents = await opened
                self.openings += 1
            return self._agents

    def lose(self, agents: AgentClient) -> None:
        """Use this connection no more."""
        if self._agents is agents:
            self._agents = None

    async def end(self) -> None:
        """Close the connection, and open no other one."""
        self._has_ended = True
        await self._close()

    async def _close(self) -> None:
        self._left.set()
        holding, self._holding, is_opening = self._holding, None, self._agents is None
        if holding is None:
            return
        if is_opening:
            holding.cancel()
        with suppress(asyncio.CancelledError):
            await holding

    async def _hold(self, opened: asyncio.Future[AgentClient], left: asyncio.Event) -> None:
        try:
            async with self._connecting() as agents:
                if not opened.cancelled():
                    opened.set_result(agents)
                    await left.wait()
        except Exception as exc:  # noqa: BLE001  # for whoever waits; of one that is left, nobody needs to know more
            if not opened.done():
                opened.set_exception(exc)


class McpChatClient(ChatClient):
    """A chat client that sends messages as MCP tool calls.

    What only reads is asked again on a new connection where the old one is lost; a message is never sent twice.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._known_openings = server.openings

    @override
    async def agents(self) -> list[AgentOut]:
        return await self._read(lambda agents: agents.agents())

    @override
    async def default_agent(self) -> str | None:
        return (await self._call("list_agents", {}))["default"]

    @override
    async def models(self, agent: str | None) -> list[ModelOut]:
        return await self._read(lambda agents: agents.models(agent))

    @override
    async def sessions(self, cursor: str | None) -> Page[SessionOut]:
        answer = await self._call("list_sessions", {"cursor": cursor})
        sessions = tuple(SessionOut.model_validate(session) for session in answer["sessions"])
        return Page(sessions, answer["next_cursor"])

    @override
    async def session_id(self, turn_id: str) -> str:
        return str((await self._call("get_turn", {"turn_id": turn_id, "wait_seconds": 0}))["session_id"])

    @override
    async def transcript(self, session_id: str) -> str:
        async def read(cursor: str | None) -> Page[str]:
            part = await self._call("get_transcript", {"session_id": session_id, "cursor": cursor})
            return Page((part["markdown"],), part["next_cursor"])

        newest, *older = await read_all(read)
        # Each part begins with the heading of the session, which stands once.
        parts = [part.partition("\n## ")[2] for part in (newest, *older)]
        return newest.partition("\n## ")[0] + "".join(f"\n## {part}" for part in reversed(parts) if part)

    @override
    async def send(self, options: ChatOptions, message: str, following: Following) -> ChatReply:
        # Any call shows whether the server is there, before the message is on its way to one that is not.
        agents = await self._read(_that_answers)
        if self._server.openings > self._known_openings:
            self._known_openings = self._server.openings
            print_err("The server had ended: a new one was started.")
        answer = agents.ask(_arguments(options, message))
        following.turn_id = lambda: answer.turn_id
        with _told():
            try:
                turn = await _followed(answer, following)
            except* ConnectionLostError:
                self._server.lose(agents)
                raise
        return to_reply(in_commands(turn.model_dump()), options.request(message))

    @override
    async def estimate(self, options: ChatOptions, message: str) -> Fields:
        return {**await self._call("chat", {**_arguments(options, message), "estimate": True})}

    async def _call(self, tool: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
        return await self._read(lambda agents: agents.call(tool, arguments))

    async def _read(self, work: Callable[[AgentClient], Awaitable[T]]) -> T:
        with _told():
            agents = await self._server.agents()
            try:
                return await work(agents)
            except ConnectionLostError:
                self._server.lose(agents)
            return await work(await self._server.agents())


async def _that_answers(agents: AgentClient) -> AgentClient:
    await agents.call("list_agents", {})
    return agents


async def _followed(answer: Answer, following: Following) -> Turn:
    async with asyncio.TaskGroup() as group:
        cancelling = group.create_task(_cancel_when(following.interrupted, answer))
        try:
            async for piece in answer:
                following.on_text(piece)
            return await answer
        except TurnError as ended:
            return ended.turn
        finally:
            cancelling.cancel()


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
        if isinstance(reason, client.BudgetExceededError):
            raise BudgetExceededError(str(reason), reason.details) from exc
        fault = as_member(BackendFault, reason.fault) if isinstance(reason, RefusedError) else None
        if fault is not None:
            # What it says names the next step already.
            raise BackendError(fault, str(reason), next_step="") from exc
        raise InvalidRequestError(str(reason)) from exc


def _after_loss(lost: ConnectionLostError) -> str:
    anew = "The next message starts a new server."
    if lost.turn_id is None:
        return f"{anew} If this one has reached it, `agentapi-mcp turns list` shows it first."
    return (
        f"The turn {lost.turn_id} goes on, or is settled, without it: `agentapi-mcp turns show {lost.turn_id}` shows "
        f"what became of it. {anew}"
    )


@asynccontextmanager
async def open_mcp_chat_client(
    connecting: Connecting = _CONNECTING,
) -> AsyncGenerator[McpChatClient]:
    """Start the server as a client does, and connect; and again, where it is gone."""
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        server = _Server(connecting, group)
        try:
            with _told():
                await server.agents()
            yield McpChatClient(server)
        except Exception as exc:  # noqa: BLE001  # raised below: a task group would hide it in a group of exceptions
            failure = exc
        finally:
            await server.end()
    if failure is not None:
        raise failure


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
