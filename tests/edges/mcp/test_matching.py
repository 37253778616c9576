"""Completions find inside of words, forgive a typo, and put first what is meant most likely."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.edges.mcp.server.matching import ranked

NAMES = ["guide", "code-review", "reviewer", "droid", "preview_bot", "Überblick"]


def found(typed: str, names: list[str] = NAMES) -> list[str]:
    """Complete among these names."""
    return ranked(typed, ((name, name) for name in names))


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("", NAMES),
        ("REVIEW", ["reviewer", "code-review", "preview_bot"]),
        ("review", ["reviewer", "code-review", "preview_bot"]),
        ("bot", ["preview_bot"]),
        ("view", ["code-review", "reviewer", "preview_bot"]),
        ("oi", ["droid"]),
        ("gi", []),
        ("g" + "uide" * 10, []),
        ("gudie", ["guide"]),
        ("giude", ["guide"]),
        ("gudi", ["guide"]),
        ("driod", ["droid"]),
        ("reveiw", ["code-review", "reviewer"]),
        ("über", ["Überblick"]),
        ("xyz", []),
        ("gx", []),
        ("g" * 41, []),
    ],
)
def test_names_are_found_by_their_beginning_a_word_a_part_or_with_a_typo(typed: str, names: list[str]) -> None:
    assert found(typed) == names


def test_only_so_many_words_are_compared_letter_by_letter() -> None:
    names = [f"a{number}" for number in range(2_000)]
    assert found("gudie", [*names[:-1], "guide"]) == ["guide"]
    assert found("gudie", [*names, "guide"]) == []
    assert found("guid", [*names, "guide"]) == ["guide"]
    assert found("gudie", ["a b " * 9 + "a guide"]) != []
    assert found("gudie", ["a b " * 10 + "guide"]) == []
    assert found("gudie", ["a b " * 10 for _ in names[:100]] + ["guide"]) == []


TEXTS = st.lists(st.text(max_size=12), unique=True, max_size=8)


@given(TEXTS, st.text(max_size=6))
def test_every_text_that_holds_what_was_typed_is_found_and_those_that_begin_with_it_come_first(
    texts: list[str], typed: str
) -> None:
    answer = found(typed, texts)
    assert len(answer) == len(set(answer))
    assert {text for text in texts if typed.casefold() in text.casefold()} <= set(answer) <= set(texts)
    begins = [text.casefold().startswith(typed.casefold()) for text in answer]
    assert begins == sorted(begins, reverse=True)


def test_a_word_that_begins_so_comes_before_a_part_and_a_part_before_a_typo() -> None:
    assert found("guide", ["gudie", "misguided", "the-guide", "guides"]) == [
        *("guides", "the-guide", "misguided", "gudie"),
    ]


def test_what_is_short_or_long_is_not_compared_letter_by_letter() -> None:
    long = "abcd" * 10
    assert found("ab", ["ax"]) == []
    assert found(long, [f"{long[:-1]}x"]) == [f"{long[:-1]}x"]
    assert found(f"{long}e", [f"{long}f"]) == []
