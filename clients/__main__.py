"""Try real clients: `python -m clients [CLIENT ...]` prints what each did, as a table; all of them without a name."""

import argparse
import asyncio
import os
import platform
import sys
from dataclasses import dataclass
from functools import partial
from typing import cast

from clients.place import Place, open_place
from clients.plain import PLAIN, Plain, PlainRun
from clients.programs import PROMPTED, Prompted
from clients.provider import open_provider
from clients.running import PromptedRun
from clients.trials import OVER_HTTP, TRIALS, FailedError, Trial

# A trial that does not end is ended: this long at full scale, and what starting takes, which no scale shortens.
_WITHIN, _STARTING = 300.0, 120.0
_MOST_WORDS = 600


@dataclass(frozen=True)
class Tried:
    """What one client did over one transport: a word for each trial."""

    client: str
    transport: str
    cells: dict[str, str]

    @property
    def has_failed(self) -> bool:
        """Whether one of the trials failed."""
        return any(cell.startswith("**fails**") for cell in self.cells.values())


def trial_of(client: Prompted | Plain, place: Place, transport: str) -> Trial:
    """Return what is needed to try a client over a transport."""
    if isinstance(client, Plain):
        return Trial(place, partial(PlainRun, client, place, transport), ("read", _resource))
    reading = (client.read_tool, client.reading) if client.read_tool else None
    return Trial(place, partial(PromptedRun, client, place, transport), reading)


def _resource(uri: str) -> dict[str, object]:
    return {"uri": uri}


async def try_client(client: Prompted | Plain, place: Place, transport: str, names: list[str]) -> Tried:
    """Do the trials one after the other; what fails is said in its cell."""
    trial, cells = trial_of(client, place, transport), dict[str, str]()
    within = _STARTING + _WITHIN * place.scale
    for name in names:
        if name in OVER_HTTP and transport != "http":
            cells[name] = "-"
            continue
        await place.ensure_server()
        limit = asyncio.timeout(within)
        try:
            async with limit:
                cells[name] = await TRIALS[name](trial)
        except* (FailedError, TimeoutError, OSError, AssertionError, KeyError, ValueError) as failed:
            cells[name] = f"**fails**: {f'no end after {within:.0f} s' if limit.expired() else _words(failed)}"
        print(f"{client.name}, {transport}, {name}: {cells[name]}", file=sys.stderr, flush=True)
    return Tried(client.name, transport, cells)


def _words(failed: BaseException) -> str:
    first = failed
    while isinstance(first, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", first).exceptions[0]
    words = " ".join(f"{type(first).__name__}: {first}".split())
    return words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS // 2]} ... {words[-_MOST_WORDS // 2 :]}"


async def _main(given: argparse.Namespace) -> bool:
    everyone: dict[str, Prompted | Plain] = {**PROMPTED, **PLAIN}
    names: list[str] = given.clients or list(everyone)
    trials: list[str] = given.trials or list(TRIALS)
    print(f"{platform.platform()}, {os.cpu_count()} CPUs; an answer of 90 words takes {90 * given.scale:g} s\n")
    print("| client | version | transport |" + "".join(f" {name} |" for name in trials))
    print("|---|---|---|" + "---|" * len(trials), flush=True)
    sound = True
    async with open_provider(given.scale) as provider, open_place(provider, given.scale) as place:
        for client in (everyone[name] for name in names):
            version = await asyncio.to_thread(client.version)
            for transport in client.transports:
                tried = await try_client(client, place, transport, trials)
                sound = sound and not tried.has_failed
                cells = "".join(f" {tried.cells[name]} |" for name in trials)
                print(f"| {client.name} | {version} | {transport} |{cells}", flush=True)
    return sound


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Read the words of the command line, and refuse a client or a trial that there is not."""
    everyone = [*PROMPTED, *PLAIN]
    parser = argparse.ArgumentParser(prog="python -m clients", description="Try real clients with a fake model.")
    parser.add_argument("clients", metavar="CLIENT", nargs="*", help=f"one of: {', '.join(everyone)}")
    parser.add_argument("--scale", type=float, default=1.0, help="how long a second is: 0.1 for tenths")
    parser.add_argument("--trials", type=_names, help=f"only these, with commas between: {', '.join(TRIALS)}")
    given = parser.parse_args(words)
    trials: list[str] = given.trials or []
    if absent := [name for name in trials if name not in TRIALS]:
        parser.error(f"there is no trial {', '.join(absent)}; there are: {', '.join(TRIALS)}")
    if unknown := [name for name in given.clients if name not in everyone]:
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join(everyone)}")
    return given


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(_main(parse())) else 1)
