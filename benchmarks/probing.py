"""How long a probe waits while one client does its worst: by the loop that serves calls, as an orchestrator asks it."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from benchmarks.client import Client, connect
from benchmarks.results import Result, milliseconds
from benchmarks.servers import ROOT, Bench, Process
from benchmarks.serving import chat

_MEBIBYTES_4 = 4 * 1024 * 1024
_ONE_REQUEST = 0.25  # seconds
_CROWD = 1.0


async def probes(bench: Bench) -> list[Result]:
    """Ask /healthz during costly requests, a flood of a provider, and 500 connections that come in at once."""
    costly = {
        "small arrays": _filled("[],"),
        "nested arrays": _filled("[" * 60 + "]" * 60 + ","),
        "numbers": _filled("1,"),
        "one text": json.dumps("x" * (_MEBIBYTES_4 - 1024)),
        "digits": _filled("9" * 4_000 + ","),
        "just within the bounds": "[" + f"[{'9' * 100}]," * 19_990 + "1]",
    }
    results: list[Result] = []
    for what, value in costly.items():
        used = bench.product.cpu()
        async with _probed(bench.product) as took:
            for _ in range(10):
                await _send_costly(bench.product, value)
        each = milliseconds((bench.product.cpu() - used) / 10)
        results.append(_within(f"`/healthz` beside 4 MB of {what} ({each} CPU each)", took, _ONE_REQUEST))
    async with connect(bench.product.url) as client, _probed(bench.product) as took:
        for _ in range(3):
            await chat(client, "flood", wait_seconds=120)
    results.append(_within("`/healthz` beside an answer of 20,000 pieces at once", took, _ONE_REQUEST))
    async with _probed(bench.product) as took, asyncio.TaskGroup() as group:
        for _ in range(500):
            group.create_task(_come_in(bench.product))
    results.append(_within("`/healthz` while 500 connections of one user come in, each with a chat", took, _CROWD))
    return results


def _filled(part: str) -> str:
    return "[" + part * ((_MEBIBYTES_4 - 1024) // len(part)) + "1]"


def _within(what: str, took: list[float], bound: float) -> Result:
    worst = max(took)
    return Result(what, f"{milliseconds(worst)} at most", f"≤ {milliseconds(bound)}", worst <= bound)


async def _send_costly(process: Process, value: str) -> None:
    """Send a call with a costly argument, whatever it is answered."""
    parts = urlsplit(process.url)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_health"}})
    body = body.replace('"get_health"', '"get_health", "arguments": {"costly": ' + value + "}")
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    head += f"accept: application/json, text/event-stream\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(head.encode() + body.encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 413")), answer[:200]


async def _come_in(process: Process) -> None:
    client: Client
    async with connect(process.url) as client:
        await chat(client)


@asynccontextmanager
async def _probed(process: Process) -> AsyncGenerator[list[float]]:
    """Probe meanwhile; the times are in the list once the context has ended."""
    parts, took = urlsplit(process.url), list[float]()
    prober = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "benchmarks" / "prober.py"), str(parts.hostname), str(parts.port),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24,
    )  # fmt: skip
    await asyncio.sleep(0.3)  # noqa: TID251  # Python's start is not measured
    yield took
    said, _ = await prober.communicate(b"")  # which ends its stdin
    took += json.loads(said)
