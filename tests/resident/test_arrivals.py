"""Whether an answer has arrived: the bridge hears of it before its client can act on it, and tells the server."""

import asyncio
import fcntl
import json
import os
import struct
import termios
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from agentapi_mcp.resident.protocol import NUMBER, Hello, ok, sync, synced
from tests.support.peers.openai import OpenAIPeer
from tests.support.residents import LineClient, clients, environ, place_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
_A_WHILE = 0.5  # in which what must not come would have


class Server:
    """A test that is the resident server of one bridge."""

    def __init__(self) -> None:
        self._came = asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        self._came.put_nowait((reader, writer))

    async def accept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Wait for the bridge, and say that it is served."""
        reader, writer = await self._came.get()
        assert Hello.read(await reader.readline()) is not None
        writer.write(ok("1", os.getpid()))
        return reader, writer


@asynccontextmanager
async def bridge(home: Path) -> AsyncGenerator[tuple[Server, LineClient]]:
    """Start a bridge at a place where this process is the server."""
    env = environ(home)
    async with clients(env) as here:
        place, server = place_of(env), Server()
        lock = place.try_lock()
        assert lock is not None
        listening = await asyncio.start_unix_server(server.serve, place.socket)
        try:
            yield server, await here.start(env)
        finally:
            listening.close()
            os.close(lock)


async def until_asked(reader: asyncio.StreamReader, method: str) -> None:
    while f'"{method}"'.encode() not in (line := await reader.readline()):
        assert line


def unread(writer: asyncio.StreamWriter) -> int:
    """Return how many bytes the other end has not read yet."""
    descriptor: int = writer.get_extra_info("socket").fileno()
    left: int = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0]
    return left


ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{}}\n'


async def test_the_end_of_a_client_does_not_overtake_the_arrival_of_its_answer(tmp_path: Path) -> None:
    async with bridge(tmp_path / "home") as (server, client):
        client.say("ping", number=1)
        reader, writer = await server.accept()
        await until_asked(reader, "ping")
        writer.write(sync(7))
        await asyncio.to_thread(wait_until, lambda: not unread(writer))  # else the end of the client may come first
        assert client.process.stdin is not None
        client.process.stdin.close()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), _A_WHILE)
        writer.write(ANSWER)
        assert await reader.read() == synced(b"7\n")[:-1]
        assert await client.hear(1)
        writer.close()
        assert await client.process.wait() == 0


async def test_an_answer_that_was_announced_and_never_came_holds_nothing_up(tmp_path: Path) -> None:
    async with bridge(tmp_path / "home") as (server, client):
        client.say("ping", number=1)
        reader, writer = await server.accept()
        await until_asked(reader, "ping")
        writer.write(sync(1))
        writer.close()
        reader, writer = await server.accept()
        await until_asked(reader, "ping")  # it changes nothing, and is asked again
        writer.write(sync(2) + ANSWER)
        assert await client.hear(1)
        assert await reader.readline() == synced(b"2\n")[:-1]
        assert client.process.stdin is not None
        client.process.stdin.close()
        assert await reader.read() == b""
        writer.close()
        assert await client.process.wait() == 0


async def test_the_server_announces_an_answer_before_it_sends_it(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        async with clients(env) as here:
            await here.served(env)
            reader, writer = await asyncio.open_unix_connection(place_of(env).socket)
            writer.write(Hello(NUMBER, os.getpid(), "/").line())
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            asked = {"name": "chat", "arguments": {"agent": "droid", "message": uuid4().hex}}
            for message in (
                {"id": 0, "method": "initialize", "params": hello},
                {"method": "notifications/initialized"},
                {"id": 1, "method": "tools/call", "params": asked},
            ):
                writer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            before = b""
            while b'"id":1,' not in (line := await reader.readline()):
                assert line
                before = line
            assert b'"status":"completed"' in line
            assert before == sync(1)
            writer.close()
