"""What a model cites is checked while it streams, wherever a piece ends."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.backends.guide.citations import Citations

PAGES = {"docs/turns.md", "docs/turns.md#the-bill"}


def checked(pieces: Sequence[str], passages: int = 3) -> tuple[str, Citations]:
    citations = Citations(passages, PAGES.__contains__)
    shown = [citations.feed(piece) for piece in pieces]
    return "".join([*shown, citations.end()]), citations


@pytest.mark.parametrize(
    ("written", "shown", "cited", "invented"),
    [
        ("Yes [1].", "Yes [1].", {1}, 0),
        ("Yes [3, 1] and [2,2].", "Yes [3, 1] and [2, 2].", {1, 2, 3}, 0),
        ("Yes [4].", "Yes .", set[int](), 1),
        ("Yes [1, 9].", "Yes [1].", {1}, 1),
        ("Yes [0].", "Yes .", set[int](), 1),
        ("see docs/turns.md.", "see docs/turns.md.", set[int](), 0),
        ("see docs/turns.md#the-bill", "see docs/turns.md#the-bill", set[int](), 0),
        ("see docs/turns.md#none", "see (a page that does not exist)", set[int](), 1),
        ("see docs/no.md", "see (a page that does not exist)", set[int](), 1),
        ("`items[1]` and x[[1]]", "`items[1]` and x[[1]]", set[int](), 0),
        ("https://example.com/docs/no.md", "https://example.com/docs/no.md", set[int](), 0),
        ("an open [1", "an open [1", set[int](), 0),
        ("doc", "doc", set[int](), 0),
    ],
)
def test_what_does_not_exist_is_not_shown_as_a_source(written: str, shown: str, cited: set[int], invented: int) -> None:
    text, citations = checked([written])
    assert (text, citations.cited, citations.invented) == (shown, cited, invented)


WORDS = [
    "[1]",
    "[2, 9]",
    "[77]",
    "docs/turns.md",
    "docs/no.md#x",
    " ",
    ". ",
    "a",
    "d",
    "[",
    "]",
    "docs",
    "1",
    "/",
    "\n",
]


@example("docsdocs/no.md", [5])
@given(st.lists(st.sampled_from(WORDS)).map("".join), st.lists(st.integers(0, 60)))
def test_it_does_not_matter_where_the_pieces_of_an_answer_end(text: str, cuts: Sequence[int]) -> None:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in pairwise(places)]
    shown, citations = checked(pieces)
    whole, expected = checked([text])
    assert (shown, citations.cited, citations.invented) == (whole, expected.cited, expected.invented)
