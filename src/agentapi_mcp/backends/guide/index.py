"""Search index over sections: BM25 with weighted fields, synonyms and phrases."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agentapi_mcp.backends.guide.pages import Section
from agentapi_mcp.backends.guide.words import SYNONYMS, terms, words

_SATURATION = 1.2  # BM25's k1
_LENGTH = 0.6  # BM25's b
_ASKS, _HEADING, _TITLE = 3.0, 3.0, 1.5  # weight of a word in this field, relative to the body
_SYNONYM = 0.6
_PHRASE = 0.4
_ALIKE = 1.2  # bonus for a question that an author declared, as a share of its weight
_CONTEXT = 0.35
_KINDS = {"how", "why", "what", "where", "which", "can", "does", "is"}
_KIND_WEIGHT = 1.0
# Contributor documentation ranks below user documentation.
_FOLDER_WEIGHTS = {"design": 0.5}
_PAGE_WEIGHTS = {"dependencies.md": 0.5}


@dataclass(frozen=True, slots=True)
class Match:
    """A section with its score and the share of the question's weight that it covers (0 to 1)."""

    section: Section
    score: float
    coverage: float


@dataclass(frozen=True, slots=True)
class _Entry:
    section: Section
    counts: Mapping[str, float]
    pairs: frozenset[tuple[str, str]]
    asks: tuple[frozenset[str], ...]
    length: int
    weight: float


@dataclass(frozen=True, slots=True)
class _Query:
    wanted: Sequence[str]
    around: frozenset[str]
    alike: frozenset[str]


def _entry(section: Section) -> _Entry:
    counts: dict[str, float] = {}
    pairs: set[tuple[str, str]] = set()
    length = 0
    fields = [(section.body, 1.0), (section.heading, _HEADING), (section.title, _TITLE)]
    for text, weight in [*fields, *((ask, _ASKS) for ask in section.asks)]:
        found = terms(text)
        length = length or len(found)
        pairs.update(pairwise(found))
        for term, times in Counter(found).items():
            counts[term] = counts.get(term, 0.0) + weight * times
    folder = section.page.partition("/")[0]
    weight = _FOLDER_WEIGHTS.get(folder, _PAGE_WEIGHTS.get(section.page, 1.0))
    asks = tuple(_with_kind(ask) for ask in section.asks)
    return _Entry(section, counts, frozenset(pairs), asks, length, weight)


def _with_kind(question: str) -> frozenset[str]:
    """Return a question's terms with its kind (how, why)."""
    kind = next((f"?{word}" for word in words(question) if word in _KINDS), "?")
    return frozenset([*terms(question), kind])


class Index:
    """A searchable index of all sections."""

    def __init__(self, sections: Iterable[Section]) -> None:
        self._entries = tuple(_entry(section) for section in sections)
        self.sections = tuple(entry.section for entry in self._entries)
        seen = Counter(term for entry in self._entries for term in entry.counts)
        total = len(self._entries)
        self._rarity = {term: math.log(1 + (total - times + 0.5) / (times + 0.5)) for term, times in seen.items()}
        self._unseen = math.log(1 + (total + 0.5) / 0.5)
        self._mean_length = max(1.0, sum(entry.length for entry in self._entries) / max(1, total))

    def search(self, question: str, context: str = "", limit: int = 8) -> list[Match]:
        """Rank the sections for a question, those that declare this very question first.

        The words of `context` count less and need not be covered.
        """
        wanted = terms(question)
        around = frozenset(terms(context)) - frozenset(wanted)
        query = _Query(wanted, around, _with_kind(question))
        found = [(query.alike not in entry.asks, self._match(entry, query)) for entry in self._entries]
        ranked = sorted((pair for pair in found if pair[1].score > 0), key=lambda pair: (pair[0], -pair[1].score))
        return [match for _, match in ranked[:limit]]

    def find(self, heading_word: str) -> Section | None:
        """Find the first section whose heading begins with this word."""
        return next((each for each in self.sections if each.heading.split(":")[0].split(" ")[0] == heading_word), None)

    def _match(self, entry: _Entry, query: _Query) -> Match:
        distinct = dict.fromkeys(query.wanted)
        bests = [(self._importance(term), *self._best(entry, term)) for term in distinct]
        needed = sum(rarity for rarity, _, _ in bests)
        coverage = sum(rarity * presence for rarity, _, presence in bests) / needed if needed else 0.0
        score = sum(best for _, best, _ in bests)
        score += _CONTEXT * sum(self._best(entry, term)[0] for term in query.around)
        score += _PHRASE * sum(
            self._importance(first) + self._importance(second)
            for first, second in dict.fromkeys(pairwise(query.wanted))
            if (first, second) in entry.pairs
        )
        score += _ALIKE * needed * max((self._likeness(query.alike, ask) for ask in entry.asks), default=0.0)
        return Match(entry.section, score * entry.weight * (0.4 + 0.6 * coverage if needed else 1.0), coverage)

    def _likeness(self, question: frozenset[str], ask: frozenset[str]) -> float:
        """Return the similarity of a question to a declared one, 1 for equal terms."""
        common = question & ask
        if all(term.startswith("?") for term in common):
            return 0.0
        return self._weight(common) / max(self._weight(question), self._weight(ask))

    def _weight(self, alike: frozenset[str]) -> float:
        return sum(_KIND_WEIGHT if term.startswith("?") else self._importance(term) for term in alike)

    def _importance(self, term: str) -> float:
        """Return a term's weight by rarity; a term known only by a synonym weighs like the synonym."""
        if term in self._rarity:
            return self._rarity[term]
        known = [self._rarity[other] for other in SYNONYMS.get(term, ()) if other in self._rarity]
        return min(known) if known else self._unseen

    def _best(self, entry: _Entry, term: str) -> tuple[float, float]:
        """Return the score and the coverage of a term or its best synonym."""
        best = self._frequency(entry, term) * self._rarity.get(term, 0.0), 1.0 if term in entry.counts else 0.0
        for other in SYNONYMS.get(term, ()):
            if other in entry.counts:
                score = _SYNONYM * self._frequency(entry, other) * self._rarity[other]
                best = max(best[0], score), max(best[1], _SYNONYM)
        return best

    def _frequency(self, entry: _Entry, term: str) -> float:
        count = entry.counts.get(term, 0.0)
        damped = _SATURATION * (1 - _LENGTH + _LENGTH * entry.length / self._mean_length)
        return count * (_SATURATION + 1) / (count + damped)
