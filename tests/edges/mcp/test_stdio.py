"""Serving over stdin and stdout: nothing but the protocol, every request answered, an end when stdin ends."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import agentapi_mcp

PROGRAM = """
import asyncio
from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.edges.mcp.transports.stdio import serve_stdio

class ClosedStores:
    async def services(self):
        print("a stray line")
        raise StoreUnavailableError("The database is not up yet.")

asyncio.run(serve_stdio(create_server(ClosedStores(), McpOptions())))
"""
GONE = (
    PROGRAM[: PROGRAM.index("asyncio.run")]
    + """
import os
from agentapi_mcp.edges.mcp.cancellations import ClientConnection

async def main():
    client = ClientConnection()
    serving = asyncio.create_task(serve_stdio(create_server(ClosedStores(), McpOptions()), client=client))
    await client.broken.wait()
    os._exit(7)

asyncio.run(main())
"""
)
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}


@dataclass
class Served:
    """A server in a process of its own."""

    process: asyncio.subprocess.Process

    async def ask(self, line: object) -> Any:  # noqa: ANN401  # whatever the server wrote
        """Write a line, and read the next."""
        assert self.process.stdin is not None
        text = line if isinstance(line, str) else json.dumps(line)
        self.process.stdin.write(text.encode() + b"\n")
        return await self.read()

    async def read(self) -> Any:  # noqa: ANN401  # whatever the server wrote
        """Read the next line."""
        assert self.process.stdout is not None
        return json.loads(await self.process.stdout.readline())

    async def end(self) -> tuple[bytes, bytes, int]:
        """End its input, and return what else it wrote on stdout and stderr, and its code."""
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.close()
        return await process.stdout.read(), await process.stderr.read(), await process.wait()


@asynccontextmanager
async def served() -> AsyncGenerator[Served]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(Path(agentapi_mcp.__file__).parents[1])},
    )  # fmt: skip
    try:
        yield Served(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_stdout_carries_the_protocol_alone_and_the_server_ends_with_stdin() -> None:
    async with served() as server:
        assert (await server.ask(INITIALIZE))["result"]["serverInfo"]["name"] == "agentapi-mcp"
        answer = await server.ask(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_agents", "arguments": {}}}
        )
        assert answer["result"]["isError"] is True
        assert await server.end() == (b"", b"a stray line\n", 0)


async def test_a_line_that_would_cost_is_answered_by_its_id_without_being_parsed() -> None:
    costly = "[" + "[]," * 100_000 + "1]"
    lines: list[tuple[str, str | int | None]] = [
        ('{"jsonrpc":"2.0","id":3,"method":"ping","params":{"a":@}}', 3),
        ('{"method":"ping","params":{"id":7,"a":@},"jsonrpc":"2.0","id":"four"}', "four"),
        ('{ "jsonrpc" : "2.0" , "method":"ping", "id" : "5" , "params":@ }', "5"),
        ('{"params":{"a":@,"id":7},"id":true}', None),
        ('{"params":@,"jsonrpc":"2.0","id":8,"method":"ping"}', None),  # in between: nobody writes it there
        ('{"jsonrpc":"2.0","params":{"id":7,"a":@}}', None),
        ("@", None),
    ]
    async with served() as server:
        await server.ask(INITIALIZE)
        for line, request_id in lines:
            refused = await server.ask(line.replace("@", costly))
            assert (refused["id"], refused["error"]["code"]) == (request_id, -32600)
            assert refused["error"]["message"] == "The message has more than 20,000 arrays and objects."
        assert (await server.ask({"jsonrpc": "2.0", "id": 9, "method": "ping"}))["result"] == {}


@pytest.mark.parametrize("kind", ["pipe", "socket"])  # Node's clients read from sockets
async def test_a_client_that_can_read_no_more_is_noticed_though_its_pipe_stays_open(kind: str) -> None:
    if kind == "socket":
        ours, theirs = (end.detach() for end in socket.socketpair())
    else:
        ours, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GONE,
        stdin=asyncio.subprocess.PIPE, stdout=theirs, stderr=asyncio.subprocess.DEVNULL,
        env={"PYTHONPATH": str(Path(agentapi_mcp.__file__).parents[1])},
    )  # fmt: skip
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
    assert b"agentapi-mcp" in await asyncio.to_thread(os.read, ours, 65_536)
    os.close(ours)
    assert await process.wait() == 7


async def test_blank_lines_are_silence_and_other_ends_of_lines_are_read() -> None:
    async with served() as server:
        assert server.process.stdin is not None
        server.process.stdin.write(b"\n\r\n \t\n\n")
        assert (await server.ask(INITIALIZE))["id"] == 0
        server.process.stdin.write(b"\n\n\r\n")
        assert (await server.ask('{"jsonrpc":"2.0","id":1,"method":"ping"}\r'))["id"] == 1
        assert (await server.ask('\n\n{"jsonrpc":"2.0","id":2,"method":"ping"}\n\n'))["id"] == 2
        assert await server.end() == (b"", b"", 0)


async def test_a_byte_order_mark_before_a_message_is_passed_over() -> None:
    async with served() as server:
        assert (await server.ask("\ufeff" + json.dumps(INITIALIZE)))["id"] == 0
        assert (await server.ask('\ufeff{"jsonrpc":"2.0","id":1,"method":"ping"}'))["result"] == {}
        refused = await server.ask('\ufeff{"jsonrpc":"2.0","id":null,"method":"ping"}')
        assert "The id of a request" in refused["error"]["message"]
        assert await server.end() == (b"", b"", 0)


async def test_lines_that_cannot_be_read_are_answered_and_the_next_one_is_served() -> None:
    async with served() as server:
        await server.ask(INITIALIZE)
        assert (await server.ask("this is not JSON"))["error"]["code"] == -32700
        batch = await server.ask('[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]')
        assert (batch["id"], "send each message by itself" in batch["error"]["message"]) == (None, True)
        refused = await server.ask('{"jsonrpc": "2.0", "id": 4, "method": 5}')
        assert (refused["id"], refused["error"]["code"]) == (4, -32600)
        half = await server.ask(
            '{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"chat","arguments":{"\\ud800":"\\ud800"}}}'
        )
        assert half["id"] == 5
        assert "has no argument" in half["result"]["content"][0]["text"]
        named = await server.ask('{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"\\ud800"}}')
        assert named["error"]["code"] == -32602
        deep = await server.ask('{"jsonrpc":"2.0","id":8,"method":"ping","params":' + "[" * 900 + "]" * 900 + "}")
        assert (deep["id"], deep["error"]["code"]) == (8, -32600)
        assert (await server.ask({"jsonrpc": "2.0", "id": 7, "method": "ping"}))["id"] == 7
