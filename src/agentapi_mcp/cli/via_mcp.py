"""A chat client that starts the MCP server over stdio, as MCP clients do."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, Implementation, TextContent, TextResourceContents
from typing_extensions import override

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.paging import Page, read_all
from agentapi_mcp.cli.chat.clients import ChatClient, Following
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.replies import ChatReply, Fields, in_commands, to_reply
from agentapi_mcp.presentation.models import AgentOut, ModelOut, SessionOut
from agentapi_mcp.settings import VERSION, environment, with_prefixed_names

_WAIT_SECONDS = 45
_FINAL = frozenset({"completed", "failed", "cancelled", "interrupted"})


class McpChatClient(ChatClient):
    """A chat client that sends messages as MCP tool calls."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @override
    async def agents(self) -> list[AgentOut]:
        return [AgentOut.model_validate(each) for each in await self._list("list_agents", "agents", {})]

    @override
    async def models(self, agent: str | None) -> list[ModelOut]:
        given: dict[str, object] = {} if agent is None else {"agent": agent}
        return [ModelOut.model_validate(each) for each in await self._list("list_models", "models", given)]

    @override
    async def sessions(self, cursor: str | None) -> Page[SessionOut]:
        answer = await self._call("list_sessions", {} if cursor is None else {"cursor": cursor})
        sessions = tuple(SessionOut.model_validate(session) for session in answer["sessions"])
        return Page(sessions, answer["next_cursor"])

    @override
    async def transcript(self, session_id: str) -> str:
        async def read(cursor: str | None) -> Page[str]:
            given: dict[str, object] = {} if cursor is None else {"cursor": cursor}
            part = await self._call("get_transcript", {"session_id": session_id, **given})
            return Page((part["markdown"],), part["next_cursor"])

        newest, *older = await read_all(read)
        # Each part begins with the heading of the session, which stands once.
        parts = [part.partition("\n## ")[2] for part in (newest, *older)]
        return newest.partition("\n## ")[0] + "".join(f"\n## {part}" for part in reversed(parts) if part)

    @override
    async def send(self, options: ChatOptions, message: str, following: Following) -> ChatReply:
        """Send a message and poll `get_turn` until the turn is final; a tool returns its result as a whole.

        `chat` is called with `wait_seconds` 0, which returns the id by which the turn can be cancelled.
        """
        turn = begun = await self._call("chat", _arguments(options, message), following)
        async with asyncio.TaskGroup() as group:
            cancelling = group.create_task(self._cancel_when(following.interrupted, turn["turn_id"]))
            while turn["status"] not in _FINAL:
                waiting: dict[str, object] = {"turn_id": turn["turn_id"], "wait_seconds": _WAIT_SECONDS}
                turn = await self._call("get_turn", waiting, following)
            cancelling.cancel()
        if turn["reply_truncated"]:
            turn |= {"reply": await self._whole_reply(turn), "reply_truncated": False}
        return to_reply(in_commands(turn | {"joined": begun["joined"]}), options.request(message))

    async def _whole_reply(self, turn: Fields) -> str:
        """Read from the transcript a reply that was truncated in the tool's result."""
        read = await self._client.read_resource(f"{turn['transcript_uri']}.json")
        messages = [
            message
            for part in read.contents
            if isinstance(part, TextResourceContents)
            for message in json.loads(part.text)["messages"]
        ]
        return next(
            message["content"]
            for message in reversed(messages)
            if message["role"] == "assistant" and message["turn"]["id"] == turn["turn_id"]
        )

    async def _cancel_when(self, interrupted: asyncio.Event, turn_id: str) -> None:
        await interrupted.wait()
        await self._call("cancel_turn", {"turn_id": turn_id})

    async def _list(self, tool: str, name: str, given: dict[str, object]) -> list[Fields]:
        async def read(cursor: str | None) -> Page[Fields]:
            answer = await self._call(tool, given if cursor is None else {**given, "cursor": cursor})
            return Page(tuple(answer[name]), answer["next_cursor"])

        return await read_all(read)

    async def _call(self, tool: str, arguments: dict[str, object], following: Following | None = None) -> Fields:
        async def show_progress(progress: float, total: float | None, message: str | None) -> None:
            del total  # the length of a reply is unknown
            if following is not None:
                following.on_progress(f"{progress:.0f} s {(message or '').splitlines()[0][:60] if message else ''}")

        result = await self._client.call_tool(tool, arguments, progress_callback=show_progress)
        if result.structured_content is None:
            raise InvalidRequestError(_text(result))
        return cast("Fields", result.structured_content)


@asynccontextmanager
async def open_mcp_chat_client() -> AsyncGenerator[McpChatClient]:
    """Start the server as a client does, and connect."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "agentapi_mcp"],
        # The same database as that of this command, which reads DATABASE_URL as well.
        env=dict(with_prefixed_names(environment())),
        encoding_error_handler="replace",
    )
    info = Implementation(name="agentapi-mcp-chat", version=VERSION)
    async with Client(server, client_info=info) as client:
        yield McpChatClient(client)


def _arguments(options: ChatOptions, message: str) -> dict[str, object]:
    values: dict[str, object | None] = {
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
        "wait_seconds": 0,
    }
    return {name: value for name, value in values.items() if value is not None}


def _text(result: CallToolResult) -> str:
    return " ".join(part.text for part in result.content if isinstance(part, TextContent))
