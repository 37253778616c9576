"""A client that sends each byte alone gets the answers of one that sends all at once, and no more time."""

import asyncio
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from anyio.lowlevel import checkpoint

from agentapi_mcp.cli.http_protocol import LARGEST_HEAD
from tests.edges.mcp.test_http import INITIALIZE, META, MODERN, begin, message, served
from tests.support.peers.openai import OpenAIPeer

PATIENCE = 60  # seconds, which no test waits
ANSWER = {"accept": "application/json"}
WAYS = pytest.mark.parametrize("way", ["length", "chunked"])


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> dict[str, object]:
        """The message in it."""
        return cast("dict[str, object]", json.loads(self.content))


def written(way: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Write a request; in chunks, each byte of the body is one."""
    framing = f"Content-Length: {len(body)}" if way == "length" else "Transfer-Encoding: chunked"
    lines = ["POST /mcp HTTP/1.1", "Host: 127.0.0.1", "Connection: close", "Content-Type: application/json", framing]
    head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""])
    if way == "chunked":
        body = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    return head.encode() + body


async def sent(base: str, content: bytes, *, size: int | None) -> bytes:
    """Send bytes in pieces of this size, each in a packet of its own, and return all that comes back."""
    host, _, port = base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size = size or len(content)
    try:
        for start in range(0, len(content), size):
            writer.write(content[start : start + size])
            await writer.drain()
            await checkpoint()  # the server, on the same loop, reads it
            await checkpoint()
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    finally:
        writer.close()


async def asked(base: str, way: str, body: object, headers: Mapping[str, str], *, size: int | None) -> Reply:
    """Send a message, and return its answer."""
    answer = await sent(base, written(way, json.dumps(body).encode(), headers), size=size)
    head, _, content = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return Reply(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, content)


@WAYS
async def test_a_session_begins_as_for_any_client(way: str, edge_home: Path) -> None:
    async with served(edge_home) as (place, _, _):
        hello = message("initialize", INITIALIZE)
        alone, whole = [await asked(place.base, way, hello, ANSWER, size=size) for size in (1, None)]
        assert (alone.status, alone.json) == (200, whole.json)
        assert alone.headers.keys() == whole.headers.keys()
        assert alone.headers["mcp-session-id"] != whole.headers["mcp-session-id"]


@WAYS
async def test_a_message_is_asked_once_and_answered(way: str, edge_home: Path) -> None:
    async with served(edge_home) as (place, edge, _):
        arguments = {"agent": "droid", "message": f"[[echo]] {edge.tag} ü数🙂"}
        call = message("tools/call", {"name": "chat", "arguments": arguments, "_meta": META})
        headers = {**MODERN, **ANSWER, "mcp-method": "tools/call", "mcp-name": "chat"}
        told = [await asked(place.base, way, call, headers, size=size) for size in (1, None)]
        assert [answer.status for answer in told] == [200, 200]
        alone, whole = (fields(answer) for answer in told)
        assert alone["status"] == "completed"
        assert str(alone["reply"]).split() == ["[[echo]]", edge.tag, "ü数🙂"]
        assert alone.keys() == whole.keys()
        assert len([each for each in edge.peer.exchanges if edge.tag.encode() in each.content]) == 2


def fields(answer: Reply) -> dict[str, object]:
    result = cast("dict[str, object]", answer.json["result"])
    return cast("dict[str, object]", result["structuredContent"])


@WAYS
async def test_a_cancellation_reaches_the_provider(way: str, edge_home: Path) -> None:
    async with served(edge_home, peer=OpenAIPeer()) as (place, edge, http), asyncio.TaskGroup() as group:
        headers = await begin(http)
        arguments = {"agent": "droid", "message": f"{edge.tag} [[hang]]"}
        call = message("tools/call", {"name": "chat", "arguments": arguments}, 7)
        asking = group.create_task(http.post("/mcp", json=call, headers=headers))
        exchange = await edge.peer.received(content=edge.tag)
        stop = message("notifications/cancelled", {"requestId": 7, "reason": "AbortError: user-cancel"}, None)
        assert (await asked(place.base, way, stop, headers, size=1)).status == 202
        async with asyncio.timeout(PATIENCE):
            await exchange.gone.wait()
        asking.cancel()


@pytest.mark.parametrize("begins", [b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"GET / HTTP/1.1\r\nHost: a\r\nX"])
@pytest.mark.parametrize("size", [1_000, None])
async def test_a_head_that_never_ends_is_refused_with_a_status(
    begins: bytes, size: int | None, edge_home: Path
) -> None:
    async with served(edge_home) as (place, _, http):
        answer = await sent(place.base, begins + b"x" * LARGEST_HEAD, size=size)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert (await http.get("/healthz")).status_code == 200
