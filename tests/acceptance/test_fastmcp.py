"""The client of `fastmcp`, in both eras: it lists, chats with the guide, and reads the transcript."""

from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from tests.acceptance.test_npm_clients import MESSAGE, REPLY, TOOLS, served

pytestmark = pytest.mark.acceptance


def _client(server: Any, mode: str) -> Any:  # noqa: ANN401  # its answers are unions of unions
    return Client(server, mode=mode)


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize(("mode", "protocol"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
async def test_it_lists_chats_and_reads(mode: str, protocol: str, transport: str, edge_home: Path) -> None:
    async with served(transport, edge_home) as target:
        server = target.url or StdioTransport(target.command[0], list(target.command[1:]), env=dict(target.env))
        async with _client(server, mode) as client:
            assert client.protocol_version == protocol
            assert {tool.name for tool in await client.list_tools()} > TOOLS
            assert "agentapi://catalog/agents" in {resource.uri for resource in await client.list_resources()}
            assert "ask_agent" in {prompt.name for prompt in await client.list_prompts()}
            chat = await client.call_tool("chat", {"agent": "guide", "message": MESSAGE})
            turn = chat.structured_content
            assert REPLY in turn["reply"]
            told = await client.call_tool("get_transcript", {"session_id": turn["session_id"]})
            read = await client.read_resource(turn["transcript_uri"])
    for text in (told.content[0].text, read[0].text):
        assert MESSAGE in text
        assert REPLY in text
