"""What a turn costs in CPU, with Postgres and Redis: for one client, for fifty, and for two hundred at once."""

import asyncio
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from benchmarks.client import Client, connect_many, fields
from benchmarks.results import Result, milliseconds
from benchmarks.servers import Bench, Process, now

_ROUNDS = 5
_CALLS = {1: 80, 50: 8, 200: 2}  # of each client in a round
# Of the server alone, in times of the floor; what has none is reported.
_MOST: dict[int, float | None] = {1: 2.2, 50: None, 200: 1.5}
_NUMBERS = count(1)


@dataclass
class _Spent:
    """What so many calls have cost: seconds of CPU by part, context switches, and seconds by the clock."""

    calls: int = 0
    cpu: dict[str, float] = field(default_factory=dict[str, float])
    switches: int = 0
    seconds: float = 0.0

    def per_call(self, *parts: str) -> float:
        """Return the seconds of CPU of one call in these parts."""
        return sum(self.cpu[part] for part in parts) / self.calls


async def pricing(bench: Bench) -> list[Result]:
    """Compare the CPU of a call with the floor's, by turns, for each number of clients."""
    return [result for clients in _CALLS for result in await _price(bench, clients)]


async def _price(bench: Bench, clients: int) -> list[Result]:
    ours = {"server": bench.product, "postgres": bench.postgres(), "redis": bench.valkey}
    floor = _Crowd({"server": bench.floor}, [{} for _ in range(clients)])
    product = _Crowd(ours, [{"agent": "bench", "model": "instant"} for _ in range(clients)])
    for each in range(_ROUNDS + 1):
        for crowd in (floor, product):
            # The first round warms up.
            await crowd.spend(_Spent() if each == 0 else crowd.spent, _CALLS[clients])
    return _told(clients, floor.spent, product.spent)


def _told(clients: int, floor: _Spent, product: _Spent) -> list[Result]:
    who = "1 client" if clients == 1 else f"{clients} clients at once"
    server, least, most = product.per_call("server"), floor.per_call("server"), _MOST[clients]
    whole = product.per_call(*product.cpu)
    beside = ", ".join(f"{part} {milliseconds(product.per_call(part))}" for part in product.cpu)
    ratio, every = server / least, whole / least
    return [
        Result(
            f"`chat`, {who}: server CPU per call",
            f"{milliseconds(server)}, floor {milliseconds(least)} ({ratio:.1f} ×)",
            "none" if most is None else f"≤ {most} ×",
            most is None or ratio <= most,
        ),
        Result(f"… with Postgres and Redis ({beside})", f"{milliseconds(whole)} ({every:.1f} ×)", "none", holds=True),
        Result(
            "… calls a second, and context switches of the server per call",
            f"{product.calls / product.seconds:.0f}, floor {floor.calls / floor.seconds:.0f}; "
            f"{product.switches / product.calls:.1f}, floor {floor.switches / floor.calls:.1f}",
            "none",
            holds=True,
        ),
    ]


@dataclass
class _Crowd:
    """Clients of a server, and what else works for it; `saying` is what each client's next message needs."""

    parts: dict[str, Process]
    saying: list[dict[str, Any]]
    spent: _Spent = field(default_factory=_Spent)

    async def spend(self, spent: _Spent, times: int) -> None:
        """Let each client send so many messages, one after the other, and add what they cost."""
        server = self.parts["server"]
        # Anew each time: the floor closes connections that nobody uses while it is the other one's turn.
        async with connect_many(server.url, len(self.saying)) as clients:
            before, switched = {name: part.cpu() for name, part in self.parts.items()}, server.switches()
            started = now()
            async with asyncio.TaskGroup() as group:
                for client, saying in zip(clients, self.saying, strict=True):
                    group.create_task(_talk(client, saying, times))
            spent.seconds += now() - started
            spent.calls += len(clients) * times
            spent.switches += server.switches() - switched
            for name, part in self.parts.items():
                spent.cpu[name] = spent.cpu.get(name, 0.0) + part.cpu() - before[name]


async def _talk(client: Client, saying: dict[str, Any], times: int) -> None:
    """Send messages that were never sent before, in one session where the server has sessions."""
    for _ in range(times):
        answer = fields(await client.call("chat", message=f"priced {next(_NUMBERS)}", **saying))
        saying |= {"session_id": answer["session_id"]} if "session_id" in answer else {}
