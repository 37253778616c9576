"""CPU per call of LiteLLM's proxy and of Agno's AgentOS, measured by turns with ours and with the floor."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from benchmarks.client import connect
from benchmarks.servers import FLOOR, Process, answers, free_port, listens, median, new_home, process, product, provider
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from tests.support.waiting import wait_until

PACKAGES = (
    "litellm[proxy]==1.108.7",
    "agno==3.1.10",
    "fastmcp",
    "openai",
    "sqlalchemy[asyncio]",
    "aiosqlite",
    "fastapi",
    "uvicorn",
)
_SHOWN = ("litellm", "agno", "fastmcp")
_HERE = Path(__file__).parent
_ROUNDS, _CALLS = 5, 40
_KEY = "sk-bench"
_LITELLM = """
model_list:
  - model_name: instant
    litellm_params:
      model: openai/instant
      api_base: {provider}
      api_key: none
general_settings:
  master_key: {key}
litellm_settings:
  telemetry: false
"""
Call = Callable[[], Awaitable[object]]


@dataclass
class Peer:
    """A server, how it is called, and what its calls have cost."""

    name: str
    parts: Sequence[int]
    connected: Callable[[], AbstractAsyncContextManager[Call]]
    cpu: list[float] = field(default_factory=list[float])
    seconds: list[float] = field(default_factory=list[float])

    async def spend(self) -> None:
        """Call it so often, one call after the other."""
        # Connected anew each time: some close connections that nobody uses while it is the others' turn.
        async with self.connected() as call:
            before, took = self._cpu(), list[float]()
            for _ in range(_CALLS):
                started = time.monotonic()
                await call()
                took.append(time.monotonic() - started)
            self.cpu.append((self._cpu() - before) / _CALLS)
            self.seconds.append(median(took))

    def _cpu(self) -> float:
        return sum(Process(pid).cpu() for root in self.parts for pid in _tree(root))


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _tree(int(child)))]


def _install(place: Path) -> Path:
    """Make the environment of the peers, unless it is there, and return its Python."""
    python = place / "environment" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)  # noqa: S603  # ours
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)  # noqa: S603  # as above
    return python


def _versions(python: Path) -> str:
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return subprocess.run([python, "-c", code, *_SHOWN], check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603  # as above


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": tempfile.gettempdir(), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@asynccontextmanager
async def _http(url: str) -> AsyncGenerator[Call]:
    """Ask a server that speaks as OpenAI does, on one connection."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**24)

    async def call() -> None:
        body = json.dumps({"model": "instant", "messages": [{"role": "user", "content": uuid4().hex}]}).encode()
        head = (
            f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {_KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        said = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(said.partition("content-length: ")[2].partition("\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        assert answer["choices"][0]["message"]["content"] == "hello", answer

    try:
        yield call
    finally:
        writer.close()


@asynccontextmanager
async def _chat(url: str, **arguments: Any) -> AsyncGenerator[Call]:  # of any tool
    """Ask by the tool `chat`, as ours and the floor have it."""
    async with connect(url) as client:
        yield lambda: client.call("chat", message=uuid4().hex, **arguments)


@asynccontextmanager
async def _run_agent(url: str) -> AsyncGenerator[Call]:
    """Ask by the tool `run_agent`, as AgentOS has it."""
    async with Client(streamable_http_client(url)) as client:

        async def call() -> None:
            answer = await client.call_tool("run_agent", {"agent_id": "bench", "message": uuid4().hex})
            assert not answer.is_error, answer

        yield call


def _start(servers: ExitStack, python: Path, place: Path) -> list[Peer]:
    source = servers.enter_context(provider())
    home = servers.enter_context(new_home(source))
    served = servers.enter_context(product(home))
    postmaster = int((home / "pg18" / "data" / "postmaster.pid").read_text().split()[0])
    own = partial(_chat, served.url, agent="bench", model="instant")

    floor_port, agno_port, litellm_port = free_port(), free_port(), free_port()
    floor = servers.enter_context(process([*FLOOR, str(floor_port), source]))
    wait_until(lambda: listens(floor_port))

    words = [str(python), str(_HERE / "agno_os.py"), str(agno_port), source, str(place)]
    agno = servers.enter_context(process(words, _environment()))
    wait_until(lambda: answers(f"http://127.0.0.1:{agno_port}/health"), seconds=120)

    config, program = place / "litellm.yaml", str(python.with_name("litellm"))
    config.write_text(_LITELLM.format(provider=source, key=_KEY), encoding="utf-8")
    words = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(litellm_port), "--num_workers", "1"]
    litellm = servers.enter_context(process(words, _environment()))
    wait_until(lambda: answers(f"http://127.0.0.1:{litellm_port}/health/liveliness"), seconds=180)

    proxy = f"http://127.0.0.1:{litellm_port}/v1/chat/completions"
    return [
        Peer(
            "the bare MCP SDK, which keeps nothing", [floor.pid], partial(_chat, f"http://127.0.0.1:{floor_port}/mcp")
        ),
        Peer("agentapi-mcp: MCP, durable turns", [served.pid], own),
        Peer("the same with its Postgres", [served.pid, postmaster], own),
        Peer("LiteLLM's proxy: HTTP, a master key, no database", [litellm.pid], partial(_http, proxy)),
        Peer("Agno's AgentOS: MCP, SQLite", [agno.pid], partial(_run_agent, f"http://127.0.0.1:{agno_port}/mcp")),
    ]


async def _measure(peers: Sequence[Peer]) -> None:
    for each in range(_ROUNDS + 1):
        for peer in peers:
            await peer.spend()
            if each == 0:  # warms up
                peer.cpu.clear()
                peer.seconds.clear()


def _table(peers: Sequence[Peer]) -> str:
    least, own = median(peers[0].cpu), median(peers[1].cpu)
    rows = [
        f"| {peer.name} | {median(peer.cpu) * 1000:.2f} ms | {median(peer.cpu) / least:.1f} × | "
        f"{median(peer.cpu) / own:.1f} × | {median(peer.seconds) * 1000:.1f} ms |"
        for peer in peers
    ]
    return "\n".join(["| Server | CPU a call | of the floor | of ours | p50 |", "|---|---|---|---|---|", *rows])


def main() -> None:
    """Install, measure, print the table."""
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        kept = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path(temporary)
        kept.mkdir(exist_ok=True)
        python = _install(kept)
        with ExitStack() as servers:
            peers = _start(servers, python, Path(temporary))
            asyncio.run(_measure(peers))
        sys.stdout.write(f"{_table(peers)}\n\n{_versions(python)}\n")


if __name__ == "__main__":
    main()
