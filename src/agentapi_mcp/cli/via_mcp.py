"""Messages through the real MCP server, started over stdio as an MCP client starts it."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, Implementation, TextContent, TextResourceContents
from typing_extensions import override

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.cli.chats import ChatOptions, Talk
from agentapi_mcp.cli.replies import ChatReply, Fields, reply_of, worded
from agentapi_mcp.settings import VERSION, environment

_WAIT = 45
_FINAL = frozenset({"completed", "failed", "cancelled", "interrupted"})


class McpTalk(Talk):
    """Messages as tool calls of one connected client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @override
    async def newest_session(self) -> str | None:
        sessions: list[dict[str, Any]] = (await self._call("list_sessions", {}))["sessions"]
        return sessions[0]["session_id"] if sessions else None

    @override
    async def agents(self) -> list[str]:
        agents: list[dict[str, Any]] = (await self._call("list_agents", {}))["agents"]
        return [f"{agent['name']}: {'; '.join(agent['missing']) or agent['description']}" for agent in agents]

    @override
    async def send(
        self, options: ChatOptions, message: str, on_text: Callable[[str], None], interrupted: asyncio.Event
    ) -> ChatReply:
        """Send a message and wait with `get_turn` until its turn is final; progress goes to a terminal's stderr.

        The turn's id is asked for first, so that the turn can be cancelled.
        """
        del on_text  # a tool's answer comes whole
        turn = await self._call("chat", _arguments(options, message))
        async with asyncio.TaskGroup() as group:
            cancelling = group.create_task(self._cancel_when(interrupted, turn["turn_id"]))
            while turn["status"] not in _FINAL:
                turn = await self._call("get_turn", {"turn_id": turn["turn_id"], "wait_seconds": _WAIT})
            cancelling.cancel()
        if turn["reply_truncated"]:
            turn |= {"reply": await self._whole_reply(turn), "reply_truncated": False}
        return reply_of(worded(turn))

    async def _whole_reply(self, turn: Fields) -> str:
        """Read from the transcript what was too long for a tool's answer."""
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

    async def _call(self, tool: str, arguments: dict[str, object]) -> Fields:
        result = await self._client.call_tool(tool, arguments, progress_callback=_show_progress)
        if result.structured_content is None:
            raise InvalidRequestError(_text(result))
        return cast("Fields", result.structured_content)


@asynccontextmanager
async def open_mcp_talk() -> AsyncGenerator[McpTalk]:
    """Start the server the way a client does, and shake hands."""
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "agentapi_mcp"], env=dict(environment()), encoding_error_handler="replace"
    )
    info = Implementation(name="agentapi-mcp-chat", version=VERSION)
    async with Client(server, client_info=info) as client:
        yield McpTalk(client)


async def _show_progress(progress: float, total: float | None, message: str | None) -> None:
    del total  # an answer has no known length
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{progress:.0f} s {(message or '').splitlines()[0][:60] if message else ''}\r\x1b[K")
        sys.stderr.flush()


def _arguments(options: ChatOptions, message: str) -> dict[str, object]:
    given: dict[str, object | None] = {
        "message": message,
        "agent": options.agent,
        "model": options.model,
        "session_id": options.session_id,
        "idempotency_key": options.idempotency_key,
        "system_prompt": options.parameters.system_prompt,
        "temperature": options.parameters.temperature,
        "max_tokens": options.parameters.max_tokens,
        "wait_seconds": 0,
    }
    return {name: value for name, value in given.items() if value is not None}


def _text(result: CallToolResult) -> str:
    return " ".join(part.text for part in result.content if isinstance(part, TextContent))
