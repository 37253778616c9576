"""What somebody may mean who has typed a part of a name: its beginning, a word of it, a part, or that with a typo."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import TypeVar

T = TypeVar("T")

_WORD = re.compile(r"[^\W_]+")
# Comparing letters is slow: with so many words in all, and in one text, and of what somebody types. Fewer letters than
# three are never alike enough.
_MOST_COMPARED, _MOST_WORDS, _SHORTEST, _LONGEST = 2_000, 20, 3, 40
_ALIKE = 0.7


def ranked(typed: str, texts: Iterable[tuple[T, str]]) -> list[T]:
    """Return what belongs to the texts that fit, best first, and among equals in the order that they are given in."""
    wanted, left = typed.casefold(), _MOST_COMPARED
    if not _SHORTEST <= len(wanted) <= _LONGEST:
        left = 0
    found = list[tuple[float, T]]()
    for each, text in texts:
        name = text.casefold()
        begins = [word.start() for word in _WORD.finditer(name)]
        rank = _rank(wanted, name, begins)
        if rank is None and left:
            compared = begins[: min(_MOST_WORDS, left)]
            left -= len(compared)
            rank = _rank_of_typo(wanted, name, compared)
        if rank is not None:
            found.append((rank, each))
    return [each for _, each in sorted(found, key=lambda one: one[0])]


def _rank(wanted: str, text: str, begins: Iterable[int]) -> float | None:
    """Return 0 for the beginning, 1 for that of a word, 2 for a part, None if it does not fit."""
    if text.startswith(wanted):
        return 0
    if any(text.startswith(wanted, begin) for begin in begins):
        return 1
    return 2 if wanted in text else None


def _rank_of_typo(wanted: str, text: str, begins: Iterable[int]) -> float | None:
    """Return 3 to 4 by how alike the likeliest of these words is, None if none is."""
    matcher = SequenceMatcher(b=wanted, autojunk=False)
    best = max((_likeness(matcher, text[begin : begin + len(wanted)]) for begin in begins), default=0.0)
    return 4 - best if best >= _ALIKE else None


def _likeness(matcher: "SequenceMatcher[str]", text: str) -> float:
    matcher.set_seq1(text)
    return matcher.ratio() if matcher.quick_ratio() >= _ALIKE else 0.0
