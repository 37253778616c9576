"""Change the engine of turns in small ways, and count which changes its tests notice: `python -m mutation`."""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence

from mutation.equivalents import Equivalents
from mutation.mutants import MODULES, ROOT, Mutant, mutants_of, path_of, statement_lines
from mutation.trying import Server, Test, killer, load_libraries, measure

# The tests beside the engine. The one of random orders is left out: what it notices differs from run to run, and it
# takes minutes to find the shortest order that fails.
_TESTS = (
    "tests/core/conversations",
    "tests/stores/postgres/test_turns.py",
    "--deselect=tests/core/conversations/test_turns_model.py",
)
# As many as can be tried within an hour: most take seconds, and one that survives has passed all tests.
_SAMPLE = 150
_LEAST_KILLED, _MOST_EQUIVALENT = 0.85, 0.15
_SURVIVORS = ROOT / ".cache" / "mutation.json"
_HEADING = (
    "| module | mutants | killed | survived | equivalent | killed of those not equivalent |\n|---|---|---|---|---|---|"
)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mutation", description="Count the mutants that the tests kill.")
    parser.add_argument("--module", action="append", help="one of the modules by its last names; all without")
    parser.add_argument(
        "--sample", type=int, default=_SAMPLE, help="how many mutants to try, which takes under an hour; 0 for all"
    )
    parser.add_argument("--seed", type=int, default=13, help="what chance begins with")
    parser.add_argument("--again", action="store_true", help="try what survived the last time, and nothing else")
    parser.add_argument(
        "--equivalents", action="store_true", help="try those that are listed as equivalent, which must survive"
    )
    parser.add_argument("--list", action="store_true", help="only print the mutants")
    return parser.parse_args()


class _Trial:
    """A run: which tests there are, and what became of each mutant."""

    def __init__(self, server: Server, tests: Sequence[Test]) -> None:
        self._server = server
        self._tests = sorted(tests, key=lambda test: test.seconds)
        self._sources = {module: path_of(module).read_text(encoding="utf-8") for module in MODULES}
        self._kills = Counter[tuple[str, str]]()

    def run(self, mutant: Mutant) -> str | None:
        """Return the test that kills a mutant; None if none does."""
        failed, doubtful = killer(self._server, mutant, self._ordered(mutant))
        if failed is not None:
            for place in ("", mutant.place):
                self._kills[place, failed] += 1
        for test in doubtful:
            print(f"failed for another reason than a change: {test}", flush=True)
        return failed

    def _ordered(self, mutant: Mutant) -> list[Test]:
        """Return the tests that run the changed statement, or use the module if it is none of a function.

        Those first that have killed others of the same function, then the fast ones.
        """
        lines = statement_lines(self._sources[mutant.module], mutant.line)
        # Of a module without a function that is called, any test may notice.
        of_module = [test for test in self._tests if test.lines[mutant.module]] or self._tests
        chosen = [test for test in of_module if not test.lines[mutant.module].isdisjoint(lines)] or of_module
        return sorted(
            chosen,
            key=lambda test: (-self._kills[mutant.place, test.id], round(test.seconds), -self._kills["", test.id]),
        )


def _chosen(given: argparse.Namespace, mutants: Sequence[Mutant]) -> list[Mutant]:
    chosen = [mutant for mutant in mutants if not given.module or mutant.module.endswith(tuple(given.module))]
    if given.again:
        survivors = {tuple(each) for each in json.loads(_SURVIVORS.read_text(encoding="utf-8"))}
        chosen = [mutant for mutant in chosen if (mutant.module, mutant.name) in survivors]
    if not given.again and 0 < given.sample < len(chosen):
        chosen = random.Random(given.seed).sample(chosen, given.sample)  # noqa: S311  # chance, and no secrets
    return chosen


def _survivors(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Try mutants, and return those that survive."""
    load_libraries(MODULES)
    _SURVIVORS.parent.mkdir(exist_ok=True)
    server = Server()
    survived: list[Mutant] = []
    try:
        trial = _Trial(server, measure(server, _TESTS, MODULES))
        for number, mutant in enumerate(mutants, 1):
            failed = trial.run(mutant)
            outcome = "SURVIVED" if failed is None else f"killed by {failed}"
            print(f"{number}/{len(mutants)} {mutant.module}:{mutant.line} {mutant.name} -- {outcome}", flush=True)
            if failed is None:
                survived.append(mutant)
    finally:
        server.close()
    _SURVIVORS.write_text(json.dumps([(mutant.module, mutant.name) for mutant in survived]), encoding="utf-8")
    return survived


def _report(chosen: Sequence[Mutant], equivalent: Sequence[Mutant], survived: Sequence[Mutant]) -> bool:
    """Print a row for each module; return whether enough are killed."""
    print(_HEADING)
    for module in (*MODULES, ""):
        all_, same, alive = (
            sum(mutant.module.startswith(module) for mutant in mutants) for mutants in (chosen, equivalent, survived)
        )
        killed = all_ - same - alive
        share = f"{killed / (killed + alive):.1%}" if killed + alive else ""
        print(f"| {module or 'all'} | {all_} | {killed} | {alive} | {same} | {share} |")
    killed = len(chosen) - len(equivalent) - len(survived)
    return killed >= _LEAST_KILLED * (killed + len(survived))


def main() -> int:
    """Try mutants, print what became of them, and return whether too few are killed."""
    given = _parse()
    mutants = [mutant for module in MODULES for mutant in mutants_of(module)]
    equivalents = Equivalents.read()
    if unknown := equivalents.unknown(mutants):
        print("Listed as equivalent, and no mutants (any more), or without a reason:", *unknown, sep="\n")
        return 1
    if sum(mutant in equivalents for mutant in mutants) > _MOST_EQUIVALENT * len(mutants):
        print(f"More than {_MOST_EQUIVALENT:.0%} of all mutants are listed as equivalent.")
        return 1
    chosen = _chosen(given, mutants)
    equivalent = [mutant for mutant in chosen if mutant in equivalents]
    if given.list:
        for mutant in chosen:
            print(f"{mutant.module}:{mutant.line} {mutant.name}{' -- equivalent' if mutant in equivalents else ''}")
        return 0
    if given.equivalents:
        survived = _survivors(equivalent)
        print(f"{len(equivalent) - len(survived)} of those listed as equivalent are killed.")
        return int(len(survived) < len(equivalent))
    survived = _survivors([mutant for mutant in chosen if mutant not in equivalents])
    print(f"{len(chosen)} of {len(mutants)} mutants, with the seed {given.seed}:")
    if _report(chosen, equivalent, survived):
        return 0
    print(f"Fewer than {_LEAST_KILLED:.0%} are killed.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
