"""Measure: `python -m benchmarks [ROW ...]`; without a name, all rows but the long ones."""

import asyncio
import os
import platform
import sys
from collections.abc import Awaitable, Callable

from benchmarks import budgets, fairness, lasting, ledger, pricing, probing, searching, serving, starting, tenancy
from benchmarks.results import Result
from benchmarks.servers import Bench, bench

Row = Callable[[Bench], Awaitable[list[Result]]]
SHORT: dict[str, Row] = {
    "sequential": serving.sequential,
    "price": pricing.pricing,
    "sessions": serving.long_sessions,
    "burst": serving.burst,
    "streams": serving.streams,
    "first-token": serving.first_token,
    "probes": probing.probes,
    "starts": starting.starts,
    "first-start": starting.first_start,
    "memory": starting.idle_memory,
}
LONG: dict[str, Row] = {
    "million": lasting.million,
    "steady": lasting.steady,
    "tenancy": tenancy.tenancy,
    "search": searching.searching,
    "ledger": ledger.ledger,
    "budgets": budgets.budgets,
    "shares": fairness.fairness,
}


async def _measure(names: list[str]) -> None:
    rows = SHORT | LONG
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}\n")
    print("| what | measured | bound | holds |\n|---|---|---|---|")
    with bench() as servers:
        for name in names:
            for result in await rows[name](servers):
                print(result.row(), flush=True)


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(SHORT)
    if unknown := [name for name in chosen if name not in SHORT | LONG]:
        sys.exit(f"There is no row {', '.join(unknown)}; there are: {', '.join(SHORT | LONG)}.")
    asyncio.run(_measure(chosen))
