"""What somebody may mean who has typed a part of a name: its beginning, a word of it, a part, or that with a typo."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import TypeVar

T = TypeVar("T")

_WORD = re.compile(r"[^\W_]+")
# Comparing letters is slow: of few texts, and of what somebody types. Fewer letters than three are never alike enough.
_COMPARED, _SHORTEST, _LONGEST = 500, 3, 40
_ALIKE = 0.7


def ranked(typed: str, texts: Iterable[tuple[T, str]]) -> list[T]:
    """Return what belongs to the texts that fit, best first, and among equals in the order that they are given in."""
    wanted = typed.casefold()
    found = list[tuple[float, T]]()
    for number, (each, text) in enumerate(texts):
        rank = _rank(wanted, text.casefold(), may_compare=number < _COMPARED)
        if rank is not None:
            found.append((rank, each))
    return [each for _, each in sorted(found, key=lambda one: one[0])]


def _rank(wanted: str, text: str, *, may_compare: bool) -> float | None:
    """Return 0 for the beginning, 1 for that of a word, 2 for a part, up to 4 for a typo, None if it does not fit."""
    if text.startswith(wanted):
        return 0
    begins = [word.start() for word in _WORD.finditer(text)]
    if any(text.startswith(wanted, begin) for begin in begins):
        return 1
    if wanted in text:
        return 2
    if not may_compare or not _SHORTEST <= len(wanted) <= _LONGEST:
        return None
    matcher = SequenceMatcher(b=wanted, autojunk=False)
    best = max((_likeness(matcher, text[begin : begin + len(wanted)]) for begin in begins), default=0.0)
    return 4 - best if best >= _ALIKE else None


def _likeness(matcher: "SequenceMatcher[str]", text: str) -> float:
    matcher.set_seq1(text)
    return matcher.ratio() if matcher.quick_ratio() >= _ALIKE else 0.0
