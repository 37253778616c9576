"""The start of a stdio server, as each client pays for it, and what it holds when idle."""

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from benchmarks.results import Result, milliseconds
from benchmarks.servers import FLOOR, PRODUCT, Bench, environment, median, new_home, now, resident

_ROUNDS = 15
_INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


class Stdio:
    """A server on its pipes."""

    def __init__(self, process: asyncio.subprocess.Process, started: float) -> None:
        self.process = process
        self.started = started
        self._number = 0

    async def ask(self, method: str, params: object) -> Any:
        """Send a request and return its result."""
        self._number += 1
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        while line := await self.process.stdout.readline():
            message = cast("dict[str, Any]", json.loads(line))
            if message.get("id") == self._number:
                return message["result"]
        raise AssertionError("the server closed its stdout")

    async def initialize(self) -> float:
        """Shake hands, and return how long that took from the start of the process."""
        await self.ask("initialize", _INITIALIZE)
        took = now() - self.started
        assert self.process.stdin is not None
        self.process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        return took

    async def list_tools(self) -> float:
        """List the tools, and return how long that took from the start of the process."""
        await self.ask("tools/list", {})
        return now() - self.started

    async def chat(self, **arguments: object) -> float:
        """Ask, and return how long the answer took from the start of the process."""
        result = await self.ask("tools/call", {"name": "chat", "arguments": arguments})
        assert not result.get("isError"), result
        return now() - self.started


@asynccontextmanager
async def started(words: Sequence[str], env: dict[str, str] | None = None) -> AsyncGenerator[Stdio]:
    """Start a server."""
    begun = now()
    process = await asyncio.create_subprocess_exec(
        *words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, limit=2**24
    )
    yield Stdio(process, begun)
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


async def starts(bench: Bench) -> list[Result]:
    """Start both servers 15 times in turns: to handshake, tools and the first answer; with the stores up."""
    del bench
    hands: dict[str, list[float]] = {"floor": [], "product": []}
    tools: dict[str, list[float]] = {"floor": [], "product": []}
    answer: dict[str, list[float]] = {"floor": [], "product": []}
    with new_home("http://127.0.0.1:9/v1") as home:
        env = environment(home)
        async with started(PRODUCT, env) as keeper:  # keeps the database up between the starts
            await keeper.initialize()
            await keeper.chat(agent="guide", message="hello")
            for _ in range(_ROUNDS):
                async with started([*FLOOR, "stdio"]) as floor:
                    hands["floor"].append(await floor.initialize())
                    tools["floor"].append(await floor.list_tools())
                    answer["floor"].append(await floor.chat(message="hello", model="none"))
                async with started(PRODUCT, env) as product:
                    hands["product"].append(await product.initialize())
                    tools["product"].append(await product.list_tools())
                    answer["product"].append(await product.chat(agent="guide", message="hello"))
    return [
        _at_once("stdio: process start to `initialize` answered", hands),
        _at_once("stdio: process start to `tools/list` answered", tools),
        _over_floor("stdio: process start to the first `guide` answer, database up", answer, 0.8),
    ]


async def first_start(bench: Bench) -> list[Result]:
    """Start on an empty home, three times: binaries copied, database made, migrated, `guide` asked."""
    del bench
    took = list[float]()
    for _ in range(3):
        with new_home("http://127.0.0.1:9/v1") as home:
            async with started(PRODUCT, environment(home)) as product:
                await product.initialize()
                took.append(await product.chat(agent="guide", message="hello"))
    return [
        Result("stdio: first start ever, to the first `guide` answer", f"{max(took):.2f} s", "≤ 4 s", max(took) <= 4)
    ]


async def idle_memory(bench: Bench) -> list[Result]:
    """Compare the resident memory of both, two seconds after the handshake and a look at the tools."""
    del bench
    held: dict[str, float] = {}
    with new_home("http://127.0.0.1:9/v1") as home:
        for name, words, env in (("floor", [*FLOOR, "stdio"], None), ("product", PRODUCT, environment(home))):
            async with started(words, env) as server:
                await server.initialize()
                await server.ask("tools/list", {})
                await asyncio.sleep(2)  # noqa: TID251  # what a start leaves behind is freed by then
                held[name] = resident(server.process.pid)
    over = held["product"] - held["floor"]
    measured = f"{held['product']:.0f} MB, floor {held['floor']:.0f} MB"
    return [Result("stdio: resident memory, idle, without Postgres", measured, "≤ floor + 25 MB", over <= 25)]


def _at_once(what: str, took: dict[str, list[float]]) -> Result:
    floor, product = median(took["floor"]), median(took["product"])
    return Result(what, f"{milliseconds(product)}, floor {milliseconds(floor)}", "≤ 60 ms", product <= 0.06)


def _over_floor(what: str, took: dict[str, list[float]], most: float) -> Result:
    floor, product = median(took["floor"]), median(took["product"])
    measured = f"{milliseconds(product)}, floor {milliseconds(floor)} ({product / floor:.1f} ×)"
    return Result(what, measured, f"≤ floor + {most} s", product - floor <= most)
