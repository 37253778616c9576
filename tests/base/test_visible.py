"""Which characters a reader sees, and which only act or hide."""

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.visible import escape, replace_invisible
from tests.support.visibility import HIDDEN, WRITTEN, hidden_texts, hides_something


def without(text: str, before: str = "") -> str:
    return replace_invisible(text, lambda _: "", before=before)


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_not_seen_is_replaced_alone_in_a_run_and_after_a_letter(name: str) -> None:
    character = HIDDEN[name]
    assert without(character) == ""
    assert without(f"a{character}{character}b א{character}") == "ab א"
    assert replace_invisible(f"a{character}", escape) == f"a{ascii(character)[1:-1]}"


@pytest.mark.parametrize("text", WRITTEN)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert without(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u200db", "ab"),  # no joiner shapes a Latin letter
        ("❤\ufe0f\ufe0f\ufe0f", "❤\ufe0f"),
        ("👩\u200d\u200d\u200d👧", "👩\u200d👧"),
        ("\u200d👩", "👩"),
        ("a\ufe0f\ufe0e", "a"),
        ("葛\U000e0100\U000e0101", "葛\U000e0100"),
        ("x\U000e0100", "x"),
        ("\U0001f3f4\U000e0068\U000e0069", "\U0001f3f4"),  # "hi" is no region with a flag
        ("\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbsct") + "\U000e007f\U000e007f", None),
        ("می\u200c\u200c\u200cخ", "می\u200cخ"),
        ("क\u200d\u200d", "क\u200d"),
    ],
)
def test_nothing_hides_in_a_run_of_what_shapes_a_character(text: str, shown: str | None) -> None:
    assert without(text) == (text[:-1] if shown is None else shown)


def test_characters_of_a_newer_unicode_are_seen_where_only_emoji_and_ideographs_are_added() -> None:
    newer = [chr(code) for code in range(0x1F000, 0x1FB00) if unicodedata.category(chr(code)) == "Cn"]
    assert newer
    assert without("".join(newer)) == "".join(newer)
    assert without("\U0002fffe\U000e0fff\u0378") == ""


def test_kept_characters_stay_and_nothing_else_of_their_kind() -> None:
    assert replace_invisible("a\n\tb\r\x0b", lambda _: "", keep="\n\t") == "a\n\tb"


@given(hidden_texts)
def test_no_text_hides_anything_from_its_reader(text: str) -> None:
    assert not hides_something(without(text))
    assert not hides_something(replace_invisible(text, escape))


@given(hidden_texts)
def test_what_is_shown_already_is_not_changed_again(text: str) -> None:
    assert without(without(text)) == without(text)


@given(hidden_texts, st.lists(st.integers(0, 60), max_size=6))
def test_a_text_in_pieces_is_shown_as_the_whole(text: str, cuts: list[int]) -> None:
    shown, places = "", sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for begin, end in pairwise(places):
        shown += without(text[begin:end], shown)
    assert shown == without(text)
