"""`serve` under load: sequential calls, long sessions, bursts, streams."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import httpx2
from benchmarks.client import Client, connect, connect_many, fields
from benchmarks.provider import LONG, PIECES
from benchmarks.results import Result, milliseconds
from benchmarks.servers import Bench, Process, median, now, percentile

_NUMBERS = count(1)


async def chat(client: Client, model: str = "instant", **more: Any) -> dict[str, Any]:
    """Send a message that was never sent before."""
    message = f"message {next(_NUMBERS)}"
    return fields(await client.call("chat", agent="bench", model=model, message=message, **more))


async def sequential(bench: Bench) -> list[Result]:
    """Ask one after the other: 400 calls of each server, in turns of 40, in sessions of 40 turns."""
    took: dict[str, list[float]] = {"floor": [], "product": []}
    used = {"floor": 0.0, "product": 0.0}
    async with connect(bench.floor.url) as floor, connect(bench.product.url) as product:
        for each in range(11):
            session: dict[str, Any] = {}
            for name, process in (("floor", bench.floor), ("product", bench.product)):
                before = process.cpu()
                for _ in range(40):
                    started = now()
                    if name == "floor":
                        await floor.call("chat", message=f"message {next(_NUMBERS)}")
                    else:
                        session = {"session_id": (await chat(product, **session))["session_id"]}
                    if each:  # the first time warms up
                        took[name].append(now() - started)
                if each:
                    used[name] += process.cpu() - before
    cpu = {name: seconds / len(took[name]) for name, seconds in used.items()}
    wall = {name: median(times) for name, times in took.items()}
    return [
        _over_floor("`chat`, sequential: server CPU per call", cpu, 0.004),
        _over_floor("`chat`, sequential: p50", wall, 0.005),
    ]


async def long_sessions(bench: Bench) -> list[Result]:
    """Compare turn 200 of a session with turn 10 of another, by turns; ten turns stand for each, in ten pairs."""
    early, late = list[float](), list[float]()
    async with connect(bench.product.url) as client:
        for _ in range(10):
            old, new = await _go_on(client, {}, 194), await _go_on(client, {}, 4)
            for _ in range(10):
                for session, took in ((old, late), (new, early)):
                    started = now()
                    await chat(client, **session)
                    took.append(now() - started)
    ratio = median(late) / median(early)
    measured = f"{ratio:.2f} × ({milliseconds(median(early))} → {milliseconds(median(late))})"
    return [Result("turn 200 of a session, against turn 10", measured, "≤ 1.2 ×", ratio <= 1.2)]


async def _go_on(client: Client, session: dict[str, Any], turns: int) -> dict[str, Any]:
    for _ in range(turns):
        session = {"session_id": (await chat(client, **session))["session_id"]}
    return session


async def burst(bench: Bench) -> list[Result]:
    """Start 50 turns at once, each of half a second, five times over, and ask other things meanwhile."""
    totals, meanwhile, during = list[float](), list[float](), list[float]()
    floor_during = list[float]()
    async with _crowd(bench.product, 50) as (clients, other), _crowd(bench.floor, 50) as (floor_clients, floor_other):
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(chat(client))
        for _ in range(5):
            started = now()
            async with asyncio.TaskGroup() as group:
                chats = [group.create_task(chat(client, "half-second")) for client in clients]
                for number in count():
                    asked = now()
                    await other.call("list_agents" if number % 2 == 0 else "get_health")
                    answered = now()
                    if any(task.done() for task in chats):
                        break
                    # The burst lasts until all have been accepted, which a quarter of a second is enough for.
                    (during if asked - started < 0.25 else meanwhile).append(answered - asked)
            totals.append(now() - started)
            async with asyncio.TaskGroup() as group:
                for client in floor_clients:
                    group.create_task(client.call("chat", message="m", model="half-second"))
                started = now()
                while now() - started < 0.25:
                    asked = now()
                    await floor_other.call("chat", message="m", model="none")
                    floor_during.append(now() - asked)
    p95 = {"floor": percentile(floor_during, 95), "product": percentile(during, 95)}
    waiting = percentile(meanwhile, 95)
    return [
        Result("50 turns of 0.5 s at once: the last answer", milliseconds(max(totals)), "≤ 900 ms", max(totals) <= 0.9),
        Result("… other calls while all wait: p95", milliseconds(waiting), "≤ 25 ms", waiting <= 0.025),
        _over_floor("… other calls during the burst: p95", p95, 0.05),
    ]


async def streams(bench: Bench) -> list[Result]:
    """Follow 500 streams of 200 pieces at once, three times over."""
    memory = list[float]()
    whole = ordered = 0
    async with connect_many(bench.product.url, 500) as clients:
        for _ in range(3):
            heard: list[list[str]] = [[] for _ in clients]
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(chat(client, "chunks-200", hear=said.append, wait_seconds=120))
                    for client, said in zip(clients, heard, strict=True)
                ]
            whole += sum(task.result()["reply"] == LONG for task in tasks)
            ordered += sum(_is_ordered(said) for said in heard)
            await asyncio.sleep(3)  # noqa: TID251  # what is freed a moment later counts as freed
            memory.append(bench.product.memory())
    growth = memory[-1] - memory[0]
    return [
        Result("500 streams of 200 pieces, 3 times: whole", f"{whole} of 1500", "all", whole == 1500),
        Result("… whose progress came in order", f"{ordered} of 1500", "all", ordered == 1500),
        Result("… memory after the third, against the first", f"{growth:+.1f} MB", "≤ 5 MB", growth <= 5),
    ]


async def first_token(bench: Bench) -> list[Result]:
    """Compare when a client hears the first piece of an answer with when it would hear it from the provider."""
    ours, direct = list[float](), list[float]()
    async with connect(bench.product.url) as client, httpx2.AsyncClient() as provider:
        for _ in range(60):
            ages = list[float]()
            await chat(client, "stamp", hear=partial(_keep_ages, ages))
            ours += ages[:1]
            body = {"model": "stamp", "messages": [{"role": "user", "content": "m"}], "stream": True}
            async with provider.stream("POST", f"{bench.provider}/chat/completions", json=body) as reply:
                ages = [age async for line in reply.aiter_lines() for age in _ages(line)]
            direct += ages[:1]
    assert len(ours) == len(direct) == 60, (len(ours), len(direct))
    return [
        _over_floor("first piece of a streamed answer: p50", {"floor": median(direct), "product": median(ours)}, 0.005)
    ]


def _is_ordered(said: list[str]) -> bool:
    """Tell whether the ends of the growing answer that were heard are ends of its beginnings, ever longer."""
    lengths = [_length(line) for line in said]
    return lengths == sorted(lengths)


def _length(line: str) -> int:
    words = re.findall(r"w(\d+)", line)
    numbers = [int(word) for word in words[1:]]  # the first may be cut
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else True, line
    return numbers[-1] if numbers and numbers[-1] < PIECES else 0


def _keep_ages(ages: list[float], said: str) -> None:
    ages += _ages(said)


def _ages(said: str) -> list[float]:
    return [now() - int(stamp) / 1e9 for stamp in re.findall(r"<(\d+)>", said)]


def _over_floor(what: str, seconds: dict[str, float], most: float) -> Result:
    floor, product = seconds["floor"], seconds["product"]
    ratio = product / floor if floor else 0
    measured = f"{milliseconds(product)}, floor {milliseconds(floor)} ({ratio:.1f} ×)"
    return Result(what, measured, f"≤ floor + {most * 1000:.0f} ms", product - floor <= most)


@asynccontextmanager
async def _crowd(process: Process, size: int) -> AsyncGenerator[tuple[list[Client], Client]]:
    async with connect_many(process.url, size) as clients, connect(process.url) as other:
        yield clients, other
