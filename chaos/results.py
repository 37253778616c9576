"""What the runs of a scenario came to: one row of a Markdown table, and the details behind it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from chaos.findings import Violation

HEADING = (
    "| scenario | runs | seconds | clients | faults injected | turns | violations | recovery p50 / max |\n"
    "|---|---|---|---|---|---|---|---|"
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

    def keep(self, folder: Path) -> None:
        """Write it into a folder, beside the runs before."""
        folder.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in folder.glob(f"{self.name}.*.json")) + 1
        fields = {**vars(self), "violations": [vars(violation) for violation in self.violations]}
        text = json.dumps(fields, indent=1, ensure_ascii=False)
        (folder / f"{self.name}.{number}.json").write_text(text + "\n", encoding="utf-8")


def kept(folder: Path) -> list[Result]:
    """Read the runs of a folder."""
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def row(results: Sequence[Result]) -> str:
    """Return the runs of one scenario as a row of Markdown: faults, turns and violations of all together."""
    counted = Counter[str]()
    for result in results:
        counted.update(result.faults)
    faults = "; ".join(f"{count} × {fault}" for fault, count in counted.items()) or "none"
    names = Counter(violation.name for result in results for violation in result.violations)
    violations = ", ".join(f"**{count} × {name}**" for name, count in names.items()) or "0"
    seconds = sum(result.seconds for result in results)
    clients = " / ".join(str(clients) for clients in sorted({result.clients for result in results}))
    turns = sum(result.turns for result in results)
    recovery = _recovery([seconds for result in results for seconds in result.recoveries])
    return (
        f"| `{results[0].name}` | {len(results)} | {seconds:.0f} | {clients} | {faults} | {turns} | {violations} "
        f"| {recovery} |"
    )


def not_run(name: str, reason: str) -> str:
    """Return the row of a scenario that cannot be run here."""
    return f"| `{name}` | 0 | | | not run: {reason} | | | |"


def _read(path: Path) -> Result:
    fields = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    violations = [Violation(**violation) for violation in fields.pop("violations")]
    return Result(violations=violations, **fields)


def _recovery(seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    ordered = sorted(seconds)
    return f"{ordered[(len(ordered) - 1) // 2]:.1f} / {ordered[-1]:.1f} s"
