"""Mutants that no test can tell from the program, each with the reason."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from mutation.mutants import Mutant

FILE = Path(__file__).with_name("equivalents.toml")


class Equivalents:
    """The list of them, by module."""

    def __init__(self, reasons: Mapping[str, Mapping[str, str]]) -> None:
        self._reasons = reasons

    @classmethod
    def read(cls) -> "Equivalents":
        """Read the list beside this file."""
        return cls(tomllib.loads(FILE.read_text(encoding="utf-8")))

    def __contains__(self, mutant: Mutant) -> bool:
        return mutant.name in self._reasons.get(_short(mutant.module), {})

    def unknown(self, mutants: Iterable[Mutant]) -> list[str]:
        """List the entries that are no mutants, or not any more, and those without a reason."""
        names = {(_short(mutant.module), mutant.name) for mutant in mutants}
        return [
            f"[{module}] {name}"
            for module, reasons in self._reasons.items()
            for name, reason in reasons.items()
            if (module, name) not in names or not reason.strip()
        ]


def _short(module: str) -> str:
    """Return a module's name without the package's."""
    return module.partition(".")[2]
