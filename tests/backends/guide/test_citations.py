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
        ("So[9].", "So.", set[int](), 1),
        ("So[2].", "So[2].", {2}, 0),
        ("Yes [1][9][3].", "Yes [1][3].", {1, 3}, 1),
        ("Yes \u30109\u3011 and \u30102\u2020docs\u3011.", "Yes  and [2].", {2}, 1),
        ("Yes [^9] and [^3].", "Yes  and [3].", {3}, 1),
        ("Yes [1; 9 and 2].", "Yes [1, 2].", {1, 2}, 1),
        ("Yes [2-3] and [2\u201399].", "Yes [2, 3] and [2, 3].", {2, 3}, 1),
        ("Yes [passage 9] and [Source 1].", "Yes  and [1].", {1}, 1),
        (r"Yes \[9\] and \[1\].", "Yes  and [1].", {1}, 1),
        ("Yes [[9]] and [[1]] [see [9]].", "Yes  and [1] [see ].", {1}, 2),
        ("`items[9]` and ``a`[9]``.", "`items[9]` and ``a`[9]``.", set[int](), 0),
        ("`docs/no.md` says", "`(a page that does not exist)` says", set[int](), 1),
        ("a ` alone [9]", "a ` alone ", set[int](), 1),
        ("a ` alone [9]\n\nand ` again", "a ` alone \n\nand ` again", set[int](), 1),
        ("- a ` here [9]\n- and ` there", "- a ` here \n- and ` there", set[int](), 1),
        ("`wrapped\nx[9]` code", "`wrapped\nx[9]` code", set[int](), 0),
        ("```py\nx[9]\n```\nSo [9]", "```py\nx[9]\n```\nSo ", set[int](), 1),
        ("~~~\n```\nx[9]\n~~~\n[9]", "~~~\n```\nx[9]\n~~~\n", set[int](), 1),
        ("1. ```sh\n   x[9]\n   ```\n   [9]", "1. ```sh\n   x[9]\n   ```\n   ", set[int](), 1),
        ("```` x\n```\n[9]\n````\n[9]", "```` x\n```\n[9]\n````\n", set[int](), 1),
        ("in [2024] or [draft] or [ ]", "in [2024] or [draft] or [ ]", set[int](), 0),
        ("https://example.com/docs/no.md", "https://example.com/docs/no.md", set[int](), 0),
        ("an open [1", "an open [1", set[int](), 0),
        ("doc", "doc", set[int](), 0),
    ],
)
def test_what_does_not_exist_is_not_shown_as_a_source(written: str, shown: str, cited: set[int], invented: int) -> None:
    text, citations = checked([written])
    assert (text, citations.cited, citations.invented) == (shown, cited, invented)


WORDS = [
    *("[1]", "[2, 9]", "[77]", "[^9]", "[[9]]", "\u30109\u2020x\u3011", r"\[9\]", "[passage 9]"),
    *("docs/turns.md", "docs/no.md#x", "`", "``", "```", "~~~", "```sh\n", "\n```\n", "\n\n", "\n- "),
    *(" ", ". ", "a", "d", "[", "]", "docs", "1", "/", "\n", "\\", "#", "^", "and", "-"),
]
PLAIN = ["So", "Yes.", " word ", "a`b", "(x)", "\n\n", "[draft]", "1. ", "# ", "d", "- "]
REAL = ["[1]", "[2, 3]", "docs/turns.md "]
FAKE = ["[9]", "[9, 88]", "[^9]", "\u30109\u3011", "\u30109\u2020docs\u3011", "[[9]]", r"\[9\]", "[source 9]", "[0][7]"]
CODE = ["`x[9]`", "``a`[9]``", "\n\n```py\nx[9] = [7]\n```\n\n", "\n\n~~~\n`[9]\n~~~\n\n"]


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    places = sorted({min(each, len(text)) for each in cuts} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(places)]


@example("docsdocs/no.md", [5])
@given(st.lists(st.sampled_from(WORDS)).map("".join), st.lists(st.integers(0, 90)))
def test_it_does_not_matter_where_the_pieces_of_an_answer_end(text: str, cuts: Sequence[int]) -> None:
    shown, citations = checked(cut(text, cuts))
    whole, expected = checked([text])
    assert (shown, citations.cited, citations.invented) == (whole, expected.cited, expected.invented)


@given(
    st.lists(
        st.sampled_from([*((each, "plain") for each in PLAIN), *((each, "real") for each in REAL)])
        | st.sampled_from([*((each, "fake") for each in FAKE), *((each, "code") for each in CODE)])
    ),
    st.integers(1, 7),
)
def test_no_word_and_no_code_is_lost_and_no_citation_of_nothing_stays(
    parts: Sequence[tuple[str, str]], size: int
) -> None:
    # A backtick that no other one closes is an ordinary character, to the end of its paragraph.
    spaced = "\n\n".join(each for each, _ in parts)
    kept = "\n\n".join("" if kind == "fake" else each for each, kind in parts)
    shown, citations = checked([spaced[at : at + size] for at in range(0, len(spaced), size)])
    assert shown == kept
    assert (citations.invented > 0) == any(kind == "fake" for _, kind in parts)


def test_a_code_span_that_never_ends_holds_the_answer_back_for_a_while_only() -> None:
    citations = Citations(3, PAGES.__contains__)
    shown = "".join(citations.feed("word ") for _ in range(10)) + citations.feed("`")
    assert shown == "word " * 10
    assert len("".join(citations.feed("word ") for _ in range(1_000))) > 1_000
