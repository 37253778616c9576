"""How many tokens a text is for a model, estimated without its tokenizer, which differs and is megabytes long.

The weights were fitted to o200k, cl100k and the tokenizer that Anthropic published, of which the dearest counts. They
are meant to err upwards; a text of random letters between blanks is the one kind known to have up to twice as many.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of piece: its pattern, and the tokens of one piece and of each of its characters.

    Patterns are short of length, so that a text can be cut between any two pieces.
    """

    pattern: str
    piece: float
    character: float


_KINDS = (
    # A word with the blank before it, which is a part of it. The first kind, since most pieces are of it.
    _Kind(r"[ ]?[A-Z]?[a-z]{1,19}(?![A-Za-z0-9])", 0.2, 0.24),
    # Identifiers, hex, base64 and numbers: for these a model may pay a token for each character.
    _Kind(r"[A-Za-z]{0,12}[0-9][A-Za-z0-9]{0,24}", 0.0, 1.0),
    _Kind(r"[A-Za-z]{20,40}", 0.0, 0.65),
    _Kind(r"[A-Z]?[a-z]{1,19}", 0.4, 0.25),
    _Kind(r"[A-Z]{1,19}", 0.5, 0.55),
    _Kind(r"[ ](?=\S)", 0.0, 0.0),
    _Kind(r"\s{1,16}", 1.0, 0.0),
    # As a JSON text has them, with a backslash each.
    _Kind(r"[\"\\]", 1.0, 0.0),
    _Kind(r"[!-/:-@\[-`{-~]{1,16}", 0.0, 0.7),
    _Kind("[\x00-\x7f]", 0.0, 2.0),
    _Kind("[\u0370-\u03ff\u0590-\u07ff]{1,16}", 0.0, 1.2),
    _Kind("[\u0080-\u036f\u0400-\u058f]{1,16}", 0.0, 1.0),
    _Kind("[\u3000-\u9fff\uff00-\uffef]{1,16}", 0.0, 1.2),
    _Kind("[\uac00-\ud7a3]{1,16}", 0.0, 1.3),
    _Kind("[\u0800-\u1fff]{1,16}", 0.0, 1.9),
    _Kind("[\u2000-\u2fff]{1,16}", 0.0, 1.5),
    _Kind("(?s:.)", 0.0, 3.0),
)
_WEIGHTS = ((0.0, 0.0), *((kind.piece, kind.character) for kind in _KINDS))


@cache
def _pieces() -> re.Pattern[str]:
    # Compiled when a text is first estimated: that takes 5 ms, and most commands estimate none.
    return re.compile("|".join(f"({kind.pattern})" for kind in _KINDS))


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text."""
    return round(sum(cost for cost, _ in _costs(text)))


def fitting(text: str, most: int) -> int:
    """Return how many characters from the beginning have at most so many tokens."""
    left = float(most)
    for cost, start in _costs(text):
        left -= cost
        if left < 0:
            return start
    return len(text)


def _costs(text: str) -> Iterator[tuple[float, int]]:
    """Return for each piece its tokens, and where it begins."""
    start = 0
    for match in _pieces().finditer(text):
        piece, character = _WEIGHTS[match.lastindex or 0]
        end = match.end()
        yield piece + character * (end - start), start
        start = end
