"""A provider of chat completions that writes down what it is asked, as a process of its own.

Words in `[[…]]` of the last message say how it answers: `pieces=N` and `pace=SECONDS`; `hang` says nothing and `stall`
stops after three pieces, both for a quarter of a minute, and then it hangs up; `cut` hangs up at once after three;
`lie` ends after three without an end; `status=NNN` refuses, `nonsense` is no JSON, `empty` has no answer.

One line of the log is one event of a request: `asked` before the first byte of the answer, then `ended` with the whole
text, `failed` where that was its script, or `gone` where the client left first. The key is the asking process's name.
"""

import asyncio
import json
import re
import sys
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

from chaos.evidence import echo, marker_of, usage_of
from chaos.timing import now, pause

from agentapi_mcp.base.concurrency import first_of

_SILENCE = 15.0
_REASONS = {200: "OK", 400: "Bad Request", 429: "Too Many Requests", 500: "Internal Server Error"}


class _HungUpError(Exception):
    """The script ends the connection."""


@dataclass(frozen=True)
class Script:
    """How one request is answered."""

    words: Mapping[str, str]

    @classmethod
    def of(cls, text: str) -> "Script":
        """Read it from a message."""
        pairs = (word.partition("=") for group in re.findall(r"\[\[(.+?)\]\]", text) for word in group.split())
        return cls({name: value for name, _, value in pairs})

    @property
    def pieces(self) -> int:
        """How many pieces the answer has."""
        return int(self.words.get("pieces", "5"))

    @property
    def pace(self) -> float:
        """How many seconds lie between two of them."""
        return float(self.words.get("pace", "0"))

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.words.get("status", "200"))

    def has(self, word: str) -> bool:
        """Tell whether a word is there."""
        return word in self.words


@dataclass
class Exchange:
    """One request, answered on its own connection."""

    writer: asyncio.StreamWriter
    log: TextIO
    body: dict[str, Any]
    process: str
    request: str = field(default_factory=lambda: uuid.uuid4().hex)
    over: bool = False

    @property
    def message(self) -> str:
        """The last message."""
        messages = cast("list[dict[str, Any]]", self.body.get("messages") or [{}])
        return str(messages[-1].get("content", ""))

    def note(self, what: str, **more: object) -> None:
        """Write a line to the log, in one piece."""
        line = {"at": now(), "what": what, "request": self.request, "process": self.process, **more}
        self.log.write(json.dumps(line) + "\n")
        self.log.flush()

    async def answer(self) -> None:
        """Answer as the script says, and note how that ended."""
        script, marker = Script.of(self.message), marker_of(self.message)
        self.note("asked", marker=marker)
        try:
            text = await self._speak(script, [f"{echo(marker)} ", *(f"w{n} " for n in range(script.pieces))])
            await self.writer.drain()
        except _HungUpError:
            self.over = True
            self.note("failed")
            self.writer.transport.abort()
        except ConnectionError:
            return
        else:
            self.over = True
            self.note("failed") if text is None else self.note("ended", text=text)

    async def _speak(self, script: Script, pieces: list[str]) -> str | None:
        if script.has("hang"):
            await pause(_SILENCE)
            raise _HungUpError
        if script.status != 200:
            self._whole(script.status, {"error": {"message": "as the script says", "code": script.status}})
        elif script.has("nonsense"):
            self._whole(200, "<html>")
        elif script.has("empty"):
            self._whole(200, {"id": self.request, "object": "chat.completion", "choices": []})
        else:
            return await self._stream(script, pieces)
        return None

    async def _stream(self, script: Script, pieces: list[str]) -> str | None:
        self.writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            b"connection: close\r\n\r\n"
        )
        for number, piece in enumerate(pieces):
            if number == 3 and script.has("lie"):
                self._chunk(b"")
                return None
            if number == 3 and (script.has("cut") or script.has("stall")):
                await pause(_SILENCE if script.has("stall") else 0)
                raise _HungUpError
            self._event({"content": piece})
            await self.writer.drain()
            await pause(script.pace)
        self._event({}, "stop")
        said, answered = usage_of(marker_of(self.message))
        usage = {"prompt_tokens": said, "completion_tokens": answered, "total_tokens": said + answered}
        self._event({}, None, usage=usage, choices=[])
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")
        return "".join(pieces)

    def _event(self, delta: dict[str, str], reason: str | None = None, **more: object) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        body = {"id": self.request, "object": "chat.completion.chunk", "model": "stub", "choices": [choice], **more}
        self._chunk(b"data: " + json.dumps(body).encode() + b"\n\n")

    def _chunk(self, content: bytes) -> None:
        self.writer.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    def _whole(self, status: int, content: object) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Refused')}\r\ncontent-type: application/json\r\n"
        self.writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: TextIO) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if head.startswith("GET "):
            body = b'{"object": "list", "data": []}'
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
            return
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n"))
        }
        body = await reader.readexactly(int(headers["content-length"]))
        exchange = Exchange(writer, log, json.loads(body), headers.get("authorization", "").removeprefix("Bearer "))
        await first_of(exchange.answer(), _left(reader))
        if not exchange.over:
            exchange.note("gone")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _left(reader: asyncio.StreamReader) -> None:
    """Wait until the client has left: it says nothing more on this connection."""
    with suppress(ConnectionError):
        while await reader.read(1024):
            pass


@asynccontextmanager
async def listening(port: int, log: Path) -> AsyncGenerator[asyncio.Server]:
    """Answer on a port until the context ends."""
    with log.open("a", encoding="utf-8") as lines:
        server = await asyncio.start_server(
            lambda reader, writer: _serve(reader, writer, lines), "127.0.0.1", port, backlog=2048, limit=2**22
        )
        async with server:
            yield server


async def _main(port: int, log: Path) -> None:
    async with listening(port, log) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2])))
