"""What rules find in the evidence of a run."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chaos.evidence import Evidence, Turn

FINAL = frozenset({"completed", "failed", "cancelled", "interrupted"})


@dataclass(frozen=True)
class Violation:
    """A rule that does not hold, and of what."""

    name: str
    subject: str
    detail: str = ""


Rule = Callable[[Evidence], Iterator[Violation]]


def turns_by_marker(evidence: Evidence) -> dict[str, list[Turn]]:
    """Return the turns of each message."""
    found: dict[str, list[Turn]] = defaultdict(list)
    for turn in evidence.turns:
        if turn.marker is not None:
            found[turn.marker].append(turn)
    return found
