"""Real clients from npm: each connects over stdio and HTTP, lists, chats with the guide, and reads the transcript."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentapi_mcp.web.application import WebOptions
from tests.acceptance.test_processes import environ
from tests.support import npm_peers
from tests.support.connect import open_edge
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance
TOOLS = {"chat", "get_turn", "cancel_turn", "list_agents", "list_models", "list_sessions", "get_transcript"}
MESSAGE = "how do I add OpenRouter?"
REPLY = "OPENROUTER_API_KEY"
_OLDEST_NODE = 22


@dataclass(frozen=True)
class Target:
    """The server as a client is told of it: an address, or a command with its environment."""

    url: str | None
    command: Sequence[str]
    env: Mapping[str, str]


@asynccontextmanager
async def served(transport: str, home: Path) -> AsyncGenerator[Target]:
    """Serve over HTTP, or tell how to start the server."""
    command = [sys.executable, "-m", "agentapi_mcp"]
    if transport == "stdio":
        yield Target(None, command, environ(home))
        return
    async with open_edge(home, OpenAIPeer()) as edge, serve_app(mcp_application(edge.server, WebOptions())) as place:
        yield Target(place.mcp, command, {})


async def node(program: Path, *words: str) -> Any:  # noqa: ANN401  # whatever it says
    """Run a program that says JSON."""
    with tempfile.TemporaryDirectory(prefix="node-") as home:
        process = await asyncio.create_subprocess_exec(
            str(npm_peers.node_bin(_OLDEST_NODE) / "node"),
            str(program),
            *words,
            env={**npm_peers.node_environment(_OLDEST_NODE), "HOME": home},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert process.returncode == 0, out.decode() + err.decode()
    return json.loads(out)


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize(
    ("version", "mode", "protocol"),
    [("v1", "legacy", None), ("v2", "legacy", "2025-11-25"), ("v2", "auto", "2026-07-28")],
)
async def test_the_typescript_sdk_lists_chats_and_reads(
    version: str, mode: str, protocol: str | None, transport: str, edge_home: Path
) -> None:
    modules = await asyncio.to_thread(npm_peers.installed, "npm_clients")
    program = Path(npm_peers.__file__).parent / "npm_clients" / "typescript.cjs"
    async with served(transport, edge_home) as target:
        server = {"command": target.command[0], "args": target.command[1:], "env": dict(target.env)}
        told = {"url": target.url, "message": MESSAGE} | server
        got = await node(program, str(modules), version, mode, json.dumps(told))
    assert set(got["tools"]) > TOOLS
    assert "agentapi://catalog/agents" in got["resources"]
    assert "ask_agent" in got["prompts"]
    assert got["protocol"] == protocol
    assert got["status"] == "completed"
    assert all(MESSAGE in transcript and REPLY in transcript for transcript in got["transcripts"])


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspectors_command_line_lists_chats_and_reads(era: str, transport: str, edge_home: Path) -> None:
    modules = await asyncio.to_thread(npm_peers.installed, "npm_clients")
    program = modules / "@modelcontextprotocol" / "inspector" / "clients" / "cli" / "build" / "index.js"
    async with served(transport, edge_home) as target:
        given = ["--transport", "http", "--server-url", target.url] if target.url else list(target.command)
        for name, value in target.env.items():
            given += ["-e", f"{name}={value}"]

        async def inspect(*words: str) -> Any:  # noqa: ANN401  # whatever it says
            said = await node(program, *given, "--protocol-era", era, "--format", "json", *words)
            return said["result"]

        listed = await inspect("--method", "tools/list")
        assert {tool["name"] for tool in listed["tools"]} > TOOLS
        listed = await inspect("--method", "resources/list")
        assert "agentapi://catalog/agents" in {resource["uri"] for resource in listed["resources"]}
        listed = await inspect("--method", "prompts/list")
        assert "ask_agent" in {prompt["name"] for prompt in listed["prompts"]}
        chat = await inspect(
            *("--method", "tools/call", "--tool-name", "chat"),
            *("--tool-arg", "agent=guide", f"message={MESSAGE}"),
        )
        turn = chat["structuredContent"]
        assert REPLY in turn["reply"]
        read = await inspect("--method", "resources/read", "--uri", turn["transcript_uri"])
        assert MESSAGE in read["contents"][0]["text"]
