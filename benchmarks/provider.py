"""A provider of chat completions that costs next to nothing, as a process of its own.

The model's name says how it answers:

`instant` answers at once, `half-second` after 0.5 s, `chunks-200` in 200 pieces, `flood` in 20,000 in one go, and
`stamp` with the time at which its first piece left, then waits a tenth of a second.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator

PIECES = 200
FLOOD = 20_000
LONG = " ".join(f"w{number}" for number in range(PIECES))
_USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "cost": 0.0001}


async def _pieces(model: str) -> AsyncGenerator[str]:
    match model:
        case "half-second":
            await _wait(0.5)
            yield "late"
        case "chunks-200":
            for number, word in enumerate(LONG.split(" ")):
                yield word if number == 0 else f" {word}"
                await _wait(0)
        case "stamp":
            yield f"<{time.monotonic_ns()}>"
            await _wait(0.1)
            yield " end"
        case _:
            yield "hello"


async def _wait(seconds: float) -> None:
    await asyncio.sleep(seconds)  # noqa: TID251  # a provider takes its time


def _event(model: str, delta: dict[str, str], reason: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    body = {"id": "c1", "object": "chat.completion.chunk", "model": model, "choices": [choice], **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


async def _stream(writer: asyncio.StreamWriter, model: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    if model == "flood":
        writer.write(_chunk(_event(model, {"content": "x"}) * FLOOD))
    async for piece in _pieces(model):
        writer.write(_chunk(_event(model, {"content": piece})))
        await writer.drain()
    writer.write(_chunk(_event(model, {}, "stop", usage=_USAGE)) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def _whole(writer: asyncio.StreamWriter, model: str) -> None:
    said = "".join([piece async for piece in _pieces(model)])
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    _reply(writer, {"id": "c1", "object": "chat.completion", "model": model, "choices": [choice], "usage": _USAGE})


def _reply(writer: asyncio.StreamWriter, content: object) -> None:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            if head.startswith("get "):
                _reply(writer, {"data": []})
            else:
                length = int(head.partition("content-length:")[2].partition("\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                await (_stream if asked.get("stream") else _whole)(writer, asked["model"])
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", int(sys.argv[1]), backlog=2048, limit=2**22)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
