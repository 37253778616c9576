"""A client over stdio that writes each byte alone: the bridge, the front and the server answer as they do any."""

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest

from agentapi_mcp.testing.http import Steps
from tests.support.peers.openai import OpenAIPeer
from tests.support.residents import COMPLETIONS, Clients, LineClient, asked, clients, environ

pytestmark = pytest.mark.acceptance
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


async def write(client: LineClient, method: str, params: object, number: int | None = None, *, end: str = "\n") -> None:
    """Write a message, byte by byte."""
    line = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
    stdin = client.process.stdin
    assert stdin is not None
    for byte in (json.dumps(line, ensure_ascii=False) + end).encode():
        stdin.write(bytes([byte]))
        await stdin.drain()


async def greet(here: Clients, env: dict[str, str]) -> LineClient:
    client = await here.start(env)
    await write(client, "initialize", HELLO, 0)
    told = (await client.hear(0))["result"]
    assert told == (await (await here.start(env)).shake_hands())["result"]
    await write(client, "notifications/initialized", {})
    return client


@pytest.mark.parametrize("shares", ["0", "1"])  # a server of its own, or a bridge to the resident one
@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_each_byte_alone_is_answered_as_a_line(shares: str, end: str, edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        env = environ(edge_home, peer, AGENTAPI_RESIDENT=shares)
        async with clients(env) as here:
            client = await greet(here, env)
            tag = str(uuid4())
            chat = {"name": "chat", "arguments": {"agent": "droid", "message": f"[[echo]] {tag} ü数🙂"}}
            await write(client, "tools/call", chat, 1, end=end)
            turn = await client.turn(1)
            assert (turn["status"], str(turn["reply"]).split()) == ("completed", ["[[echo]]", tag, "ü数🙂"])
            assert asked(peer) == 1

            hang = {"name": "chat", "arguments": {"agent": "droid", "message": f"{tag} [[hang]]"}}
            await write(client, "tools/call", hang, 2, end=end)
            exchange = await peer.received(2, path=COMPLETIONS)
            stop = {"requestId": 2, "reason": "AbortError: user-cancel"}
            await write(client, "notifications/cancelled", stop, end=end)
            async with asyncio.timeout(60):
                await exchange.gone.wait()
            assert (await client.ask("ping", {}, 3))["result"] == {}
            assert await client.end() == 0
