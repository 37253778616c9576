"""Break the program and count what must not be: `python -m chaos [SCENARIO ...]`, all of them without a name."""

import argparse
import asyncio
import logging
import os
import platform
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from chaos.postgres import Programs
from chaos.results import HEADING, Result, kept, not_run, row
from chaos.running import Options, drive
from chaos.scenarios import ALL, BY_NAME, SHORT
from chaos.world import open_place


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Break the program, and look what it lost.")
    parser.add_argument("names", metavar="SCENARIO", nargs="*", help=f"one of: {', '.join([*ALL, *BY_NAME])}")
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}, each in its smallest form")
    parser.add_argument("--seconds", type=float, help="how long each lasts")
    parser.add_argument("--clients", type=int, help="how many conversations there are at once")
    parser.add_argument("--turns", type=int, help="after how many turns a load that counts them is over")
    parser.add_argument("--seed", type=int, default=13, help="what chance begins with")
    parser.add_argument("--times", type=int, default=1, help="how often each is run, with another seed each time")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a folder for each run; the table has all in it")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a file for the table")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in {**ALL, **BY_NAME}]:
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join([*ALL, *BY_NAME])}")
    return given


async def _run(given: argparse.Namespace) -> bool:
    """Run them one after the other; tell whether nothing was violated."""
    task = asyncio.current_task()
    assert task is not None
    # As a Ctrl-C does: all that was started ends with its world.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    names: list[str] = given.names or list(SHORT if given.short else ALL)
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}\n\n{HEADING}", flush=True)
    rows: dict[str, str] = {}
    # The short form is judged by no clock, so that one may wait while another works.
    at_once = asyncio.Semaphore(2 if given.short else 1)
    with open_place() as place:
        programs = Programs.copied_to(place)

        async def run(name: str) -> bool:
            async with at_once:
                rows[name], is_sound = await _repeat(name, programs, given)
            print(rows[name], flush=True)
            return is_sound

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(name)) for name in names]
    _write_table(given, rows)
    return all(task.result() for task in tasks)


async def _repeat(name: str, programs: Programs, given: argparse.Namespace) -> tuple[str, bool]:
    """Run one as often as asked for; return its row, and whether nothing was violated."""
    results: list[Result] = []
    for number in range(given.times):
        seconds, clients = SHORT[name] if given.short else (None, None)
        options = Options(
            seconds=given.seconds or seconds,
            clients=given.clients or clients,
            turns=given.turns,
            seed=given.seed + number,
            is_timed=not given.short,
        )
        result = await _try(name, programs, options)
        if isinstance(result, _NotRun):
            return not_run(name, result.reason), result.is_excused
        if given.keep is not None:
            result.keep(given.keep)
        results.append(result)
    return row(results), not any(result.violations for result in results)


def _write_table(given: argparse.Namespace, rows: dict[str, str]) -> None:
    """Write the table where one is asked for: of these runs, or of all that are kept."""
    if given.write is None:
        return
    runs = [] if given.keep is None else kept(given.keep)
    rows = rows | {name: row([run for run in runs if run.name == name]) for name in {run.name for run in runs}}
    lines = [rows[name] for name in [*ALL, *BY_NAME] if name in rows]
    given.write.write_text("\n".join([HEADING, *lines]) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _NotRun:
    reason: str
    is_excused: bool


async def _try(name: str, programs: Programs, options: Options) -> Result | _NotRun:
    """Run one, and print its details."""
    scenario = {**ALL, **BY_NAME}[name]
    obstacle = scenario.obstacle()
    if obstacle is not None:
        return _NotRun(obstacle, is_excused=True)
    try:
        result = await drive(name, scenario, programs, options)
    except Exception:  # noqa: BLE001  # one that breaks off leaves the others their turn
        traceback.print_exc()
        return _NotRun("**broke off**", is_excused=False)
    for line in result.details():
        print(f"    {name}: {line}", file=sys.stderr, flush=True)
    return result


if __name__ == "__main__":
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # how its client takes what is broken is seen in its calls
    sys.exit(0 if asyncio.run(_run(_parse())) else 1)
