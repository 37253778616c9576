"""The chat of the terminal through the MCP server."""

import asyncio
from pathlib import Path

from typing_extensions import override

from agentapi_mcp.cli.chat.clients import Following
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.replies import Fields
from agentapi_mcp.cli.via_mcp import McpChatClient
from agentapi_mcp.testing.http import Steps
from tests.support.connect import call, connect, fields_of, open_edge
from tests.support.peers.openai import OpenAIPeer


class SlowChatClient(McpChatClient):
    """A chat client whose turn ends once it is waited for."""

    steps: Steps

    @override
    async def _call(self, tool: str, arguments: dict[str, object], following: Following | None = None) -> Fields:
        if tool == "get_turn":
            self.steps.release(3)
        return await super()._call(tool, arguments, following)


async def test_a_turn_that_was_joined_while_it_ran_is_told_as_such_at_its_end(edge_home: Path) -> None:
    steps = Steps()
    async with open_edge(edge_home, OpenAIPeer(pace=steps)) as edge, connect(edge.server, "stdio-2026") as client:
        message, key = f"{edge.tag} [[slow]] [[chunks3]]", edge.tag
        said = {"agent": "droid", "message": message, "idempotency_key": key, "wait_seconds": 0}
        running = fields_of(await call(client, "chat", **said))
        chat = SlowChatClient(client)
        chat.steps = steps
        options = ChatOptions(agent="droid", idempotency_key=key)
        reply = await chat.send(options, message, Following(asyncio.Event(), lambda _: None, lambda _: None))
    assert (running["status"], reply.turn["status"], reply.text) == ("running", "completed", "w0 w1 w2 ")
    assert reply.turn["joined"] is True
    assert "Another --idempotency-key asks it anew." in str(reply.joined)
