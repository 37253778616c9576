"""What a scenario came to: one row of a Markdown table, and the details behind it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chaos.invariants import Violation

HEADING = (
    "| scenario | seconds | clients | faults injected | turns | violations | recovery p50 / max |\n"
    "|---|---|---|---|---|---|---|"
)
_DETAILS = 5


@dataclass(frozen=True, kw_only=True)
class Result:
    """One scenario's run."""

    name: str
    seconds: float
    clients: int
    faults: Mapping[str, int]
    turns: int
    violations: Sequence[Violation]
    recoveries: Sequence[float] = ()
    refusals: Mapping[str, int] = field(default_factory=Counter[str])
    notes: Sequence[str] = ()

    def row(self) -> str:
        """Return it as a row of Markdown."""
        faults = "; ".join(f"{count} × {fault}" for fault, count in self.faults.items()) or "none"
        names = Counter(violation.name for violation in self.violations)
        violations = ", ".join(f"**{count} × {name}**" for name, count in names.items()) or "0"
        return (
            f"| `{self.name}` | {self.seconds:.0f} | {self.clients} | {faults} | {self.turns} | {violations} "
            f"| {_recovery(self.recoveries)} |"
        )

    def details(self) -> list[str]:
        """Return a line for each violation, a few of each name, for each note and for what was refused how often."""
        lines: list[str] = []
        shown = Counter[str]()
        for violation in self.violations:
            shown[violation.name] += 1
            if shown[violation.name] <= _DETAILS:
                lines.append(f"{violation.name} {violation.subject}: {violation.detail}")
        lines += self.notes
        lines += [f"refused {count} × {text}" for text, count in Counter(self.refusals).most_common(_DETAILS)]
        return lines


def not_run(name: str, reason: str) -> str:
    """Return the row of a scenario that cannot be run here."""
    return f"| `{name}` | | | not run: {reason} | | | |"


def _recovery(seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    ordered = sorted(seconds)
    return f"{ordered[(len(ordered) - 1) // 2]:.1f} / {ordered[-1]:.1f} s"
