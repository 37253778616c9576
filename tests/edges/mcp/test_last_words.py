"""A client that cancels its call and ends at once, as Codex does at Ctrl-C: both are there before either is handled."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from anyio import AsyncFile

from agentapi_mcp.edges.mcp.transports.stdio import serve_stdio
from agentapi_mcp.testing.http import Steps
from tests.edges.mcp.test_http import message
from tests.support.connect import open_edge
from tests.support.peers.openai import OpenAIPeer

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


@dataclass
class Pipes:
    """A client's two pipes, as the resident server has them: a line that is there is read without a pause."""

    said: asyncio.Queue[str] = field(default_factory=asyncio.Queue[str])
    heard: list[str] = field(default_factory=list[str])

    async def readline(self) -> str:
        """Return the next line, or the end."""
        return await self.said.get()

    async def write(self, text: str, /) -> None:
        """Take what the server says."""
        self.heard.append(text)

    async def flush(self) -> None:
        """Have nothing to wait for."""

    def say(self, *messages: object) -> None:
        """Write lines, all at once."""
        for each in messages:
            self.said.put_nowait(json.dumps(each) + "\n")


@pytest.mark.parametrize("reason", ["MCP request cancelled by caller", None])
async def test_a_call_that_is_cancelled_just_before_the_end_is_stopped(reason: str | None, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer(pace=Steps())) as edge:
        client = Pipes()
        file = cast("AsyncFile[str]", client)
        async with asyncio.TaskGroup() as group:
            group.create_task(serve_stdio(edge.server, file, file))
            client.say(message("initialize", HELLO, 0), message("notifications/initialized", {}, None))
            chat = {"name": "chat", "arguments": {"agent": "droid", "message": f"[[slow]] {edge.tag}"}}
            client.say(message("tools/call", chat, 7))
            exchange = await edge.peer.received(path="/chat/completions")
            client.say(message("notifications/cancelled", {"requestId": 7, "reason": reason}, None))
            client.said.put_nowait("")
            await exchange.gone.wait()  # one whose client is gone runs on for ten minutes
        assert 7 not in [json.loads(line).get("id") for line in client.heard]
