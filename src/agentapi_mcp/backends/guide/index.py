"""Search index over sections: BM25 with weighted fields, declared questions, synonyms, typing errors and phrases."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from agentapi_mcp.backends.guide.pages import Section
from agentapi_mcp.backends.guide.words import SYNONYMS, Vocabulary, terms, words

_SATURATION = 1.2  # BM25's k1
_LENGTH = 0.6  # BM25's b
_ASKS, _HEADING, _TITLE = 3.0, 3.0, 1.5  # weight of a word in this field, relative to the body
_SYNONYM = 0.5
_MISSPELT = 0.8
_UNKNOWN = 5.0  # weight of a word that no page has: as if one section in 150 had it
_UNKNOWN_NUMBER = 1.0  # such as 60s: it says little of what a question is about
_PHRASE = 0.4
_ALIKE = 2.0  # bonus for a question that an author declared, as a share of its weight
_CONTEXT = 0.35
_MENTIONED = 0.4  # how much a word counts as covered that only the text has, and no heading or question
_KINDS = {"how", "why", "what", "where", "which", "can", "does", "is"}
_KIND_WEIGHT = 2.0
# Documentation for contributors, and for a few, ranks below that for everybody.
_FOLDER_WEIGHTS = {"design": 0.6, "providers": 0.9}
_BEGINNING = 0.9  # of a page, which only says what the sections are about
_PAGE_WEIGHTS = {"dependencies.md": 0.5, "reliability.md": 0.7}


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
    prominent: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    asks: tuple[frozenset[str], ...]
    spoken: frozenset[str]
    length: int
    weight: float


@dataclass(frozen=True, slots=True)
class _Term:
    """A term of a question: its weight by rarity, and the stems that stand for it, each with its share."""

    stem: str
    weight: float
    variants: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Query:
    terms: Sequence[_Term]
    around: Sequence[_Term]
    pairs: Sequence[tuple[_Term, _Term]]
    kind: str
    spoken: str
    needed: float


def _entry(section: Section) -> _Entry:
    counts: dict[str, float] = {}
    prominent: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    length = 0
    fields = [(section.body, 1.0), (section.heading, _HEADING), (section.title, _TITLE)]
    for text, weight in [*fields, *((ask, _ASKS) for ask in section.asks)]:
        found = terms(text)
        length = length or len(found)
        pairs.update(pairwise(found))
        if weight > 1:
            prominent.update(found)
        for term, times in Counter(found).items():
            counts[term] = counts.get(term, 0.0) + weight * times
    folder = section.page.partition("/")[0]
    weight = _FOLDER_WEIGHTS.get(folder, _PAGE_WEIGHTS.get(section.page, 1.0))
    weight *= _BEGINNING if section.heading == section.title else 1.0
    asked = (section.heading, *section.asks)
    asks = tuple(frozenset([*terms(ask), _kind(ask)]) for ask in asked)
    spoken = frozenset(map(_spoken, (*asked, f"{section.title} {section.heading}")))
    return _Entry(section, counts, frozenset(prominent), frozenset(pairs), asks, spoken, length, weight)


def _kind(question: str) -> str:
    """Return what a question asks for (how, why), marked so that it is no term."""
    return next((f"?{word}" for word in words(question) if word in _KINDS), "?")


def _spoken(text: str) -> str:
    """Return the words of a text without case and punctuation."""
    return " ".join(words(text))


def _places(keys: Iterable[Iterable[str]]) -> Mapping[str, Sequence[int]]:
    """Return for each key in which of the entries it is."""
    places: dict[str, list[int]] = {}
    for place, found in enumerate(keys):
        for key in found:
            places.setdefault(key, []).append(place)
    return places


def _worst_last(match: Match) -> float:
    return -match.score


class Index:
    """A searchable index of all sections."""

    def __init__(self, sections: Iterable[Section]) -> None:
        self._entries = tuple(_entry(section) for section in sections)
        self.sections = tuple(entry.section for entry in self._entries)
        self._places = _places(entry.counts for entry in self._entries)
        self._spoken = _places(entry.spoken for entry in self._entries)
        seen = {term: len(places) for term, places in self._places.items()}
        total = len(self._entries)
        self._rarity = {term: math.log(1 + (total - times + 0.5) / (times + 0.5)) for term, times in seen.items()}
        self._mean_length = max(1.0, sum(entry.length for entry in self._entries) / max(1, total))

    def search(self, question: str, context: str = "", limit: int = 8) -> list[Match]:
        """Rank the sections for a question, those that declare this very question first.

        The words of `context` count less and need not be covered.
        """
        query = self._query(question, context)
        spoken = self._spoken.get(query.spoken, ())
        variants = {variant for term in (*query.terms, *query.around) for variant in term.variants}
        places = {place for variant in variants for place in self._places.get(variant, ())}
        exact = [replace(self._match(self._entries[place], query), coverage=1.0) for place in spoken]
        others = [self._match(self._entries[place], query) for place in sorted(places.difference(spoken))]
        return [*sorted(exact, key=_worst_last), *sorted(others, key=_worst_last)][:limit]

    def find(self, heading_word: str) -> Section | None:
        """Find the first section whose heading begins with this word."""
        return next((each for each in self.sections if each.heading.split(":")[0].split(" ")[0] == heading_word), None)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._rarity)

    def _query(self, question: str, context: str) -> _Query:
        wanted = [self._term(stem) for stem in terms(question)]
        own = {term.stem for term in wanted}
        distinct = list({term.stem: term for term in wanted}.values())
        around = [self._term(stem) for stem in dict.fromkeys(terms(context)) if stem not in own]
        needed = sum(term.weight for term in distinct)
        return _Query(distinct, around, list(pairwise(wanted)), _kind(question), _spoken(question), needed)

    def _term(self, stem: str) -> _Term:
        variants = {other: _SYNONYM for other in SYNONYMS.get(stem, ()) if other in self._rarity}
        if stem in self._rarity:
            return _Term(stem, self._rarity[stem], {stem: 1.0, **variants})
        if variants:  # a term known only by a synonym weighs like the synonym
            return _Term(stem, min(self._rarity[other] for other in variants), variants)
        meant = self._vocabulary.nearest(stem)
        if meant is None:
            return _Term(stem, _UNKNOWN if stem.isalpha() else _UNKNOWN_NUMBER, {})
        known = self._term(meant)
        return replace(known, stem=stem, variants={each: _MISSPELT * share for each, share in known.variants.items()})

    def _match(self, entry: _Entry, query: _Query) -> Match:
        score = covered = 0.0
        for term in query.terms:
            best, presence = self._best(entry, term)
            score += best
            covered += term.weight * presence
        coverage = covered / query.needed if query.needed else 0.0
        score += _CONTEXT * sum(self._best(entry, term)[0] for term in query.around)
        score += _PHRASE * sum(
            first.weight + second.weight for first, second in query.pairs if (first.stem, second.stem) in entry.pairs
        )
        score += _ALIKE * query.needed * max((self._likeness(query, ask) for ask in entry.asks), default=0.0)
        return Match(entry.section, score * entry.weight * (0.4 + 0.6 * coverage if query.needed else 1.0), coverage)

    def _likeness(self, query: _Query, ask: frozenset[str]) -> float:
        """Return the similarity of a question to a declared one, 1 for equal terms."""
        common = sum(
            term.weight * max((share for each, share in term.variants.items() if each in ask), default=0.0)
            for term in query.terms
        )
        if not common:
            return 0.0
        asked = sum(0.0 if each.startswith("?") else self._rarity[each] for each in ask)
        # Who types words alone asks for no kind.
        kind = _KIND_WEIGHT if query.kind != "?" else 0.0
        return (common + kind * (query.kind in ask)) / (max(query.needed, asked) + kind)

    def _best(self, entry: _Entry, term: _Term) -> tuple[float, float]:
        """Return the score and the coverage of a term or its best variant."""
        score = presence = 0.0
        for variant, share in term.variants.items():
            if variant in entry.counts:
                score = max(score, share * self._frequency(entry, variant) * self._rarity[variant])
                presence = max(presence, share if variant in entry.prominent else _MENTIONED * share)
        return score, presence

    def _frequency(self, entry: _Entry, term: str) -> float:
        count = entry.counts.get(term, 0.0)
        damped = _SATURATION * (1 - _LENGTH + _LENGTH * entry.length / self._mean_length)
        return count * (_SATURATION + 1) / (count + damped)
