"""A client that costs little: one connection, one request at a time, in the era of 2026-07-28."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

_VERSION = "2026-07-28"
_META = {
    "io.modelcontextprotocol/protocolVersion": _VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Client:
    """Calls tools."""

    def __init__(self, url: str, token: str | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._url = urlsplit(url)
        self._said = "" if token is None else f"authorization: Bearer {token}\r\n"
        self._reader = reader
        self._writer = writer
        self._number = 0

    async def call(self, tool: str, /, hear: Callable[[str], None] | None = None, **arguments: object) -> Any:
        """Call a tool and return its result; `hear` gets the messages of its progress."""
        self._number += 1
        meta = _META if hear is None else {**_META, "progressToken": self._number}
        params = {"_meta": meta, "name": tool, "arguments": arguments}
        body = json.dumps({"jsonrpc": "2.0", "id": self._number, "method": "tools/call", "params": params}).encode()
        head = (
            f"POST {self._url.path} HTTP/1.1\r\nhost: {self._url.netloc}\r\ncontent-type: application/json\r\n"
            f"accept: application/json, text/event-stream\r\nmcp-protocol-version: {_VERSION}\r\n"
            f"mcp-method: tools/call\r\nmcp-name: {tool}\r\n{self._said}content-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        result: Any = None
        async for message in self._messages():
            if "method" in message and hear is not None:
                hear(str(message["params"].get("message", "")))
            elif "id" in message:
                assert "error" not in message, message
                result = message["result"]
        assert result is not None, "no result"
        assert not result.get("isError"), result
        return result

    async def _messages(self) -> AsyncGenerator[dict[str, Any]]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        assert " 200 " in head.partition("\r\n")[0], head
        length = head.partition("content-length: ")[2].partition("\r\n")[0]
        if length:
            yield cast("dict[str, Any]", json.loads(await self._reader.readexactly(int(length))))
            return
        waiting = bytearray()
        while size := int(await self._reader.readline(), 16):
            waiting += (await self._reader.readexactly(size + 2))[:-2]
            while (end := waiting.find(b"\r\n\r\n")) >= 0:
                data = bytes(waiting[:end]).partition(b"data: ")[2]
                del waiting[: end + 4]
                if data:
                    yield cast("dict[str, Any]", json.loads(data))
        await self._reader.readline()


@asynccontextmanager
async def connect(url: str, token: str | None = None) -> AsyncGenerator[Client]:
    """Open a client, which sends the token."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**24)
    try:
        yield Client(url, token, reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def connect_many(url: str, count: int) -> AsyncGenerator[list[Client]]:
    """Open so many clients."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(url)) for _ in range(count)]


def fields(result: Any) -> dict[str, Any]:
    """Return the structured part of a result."""
    return cast("dict[str, Any]", result["structuredContent"])
