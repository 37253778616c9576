"""Lists in a terminal: what is there is shown, in columns that fit, and times as the clock on the wall has them."""

import io
import re
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from agentapi_mcp.base.far_times import FIRST, LAST
from agentapi_mcp.cli.outputs import aligned, table
from agentapi_mcp.cli.tables import cell_width, laid_out, wrapped
from agentapi_mcp.presentation.values import local_time, utc_time

ID = UUID("01980000-0000-7000-8000-0123456789ab")
COLUMNS = ("MODEL", "CONTEXT (TOKENS)", "IN ($ PER 1M)", "DESCRIPTION")
ROWS = [
    ("gpt-5.4-mini", "128,000", "0.25", "Small, and quick enough for most of what is asked."),
    ("google/gemini-3.5-flash", "unknown", "10", "Reads long documents."),
]


class _Terminal(io.StringIO):
    """A terminal without a size."""

    @override
    def isatty(self) -> bool:
        return True

    @override
    def fileno(self) -> int:
        raise OSError


@contextmanager
def zone(monkeypatch: pytest.MonkeyPatch, name: str) -> Generator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        yield
    time.tzset()


def test_a_wide_terminal_has_a_row_in_a_line_and_numbers_to_the_right() -> None:
    assert laid_out(COLUMNS, ROWS, 200).splitlines() == [
        "MODEL                    CONTEXT (TOKENS)  IN ($ PER 1M)  DESCRIPTION",
        "gpt-5.4-mini                      128,000           0.25  Small, and quick enough for most of what is asked.",
        "google/gemini-3.5-flash           unknown             10  Reads long documents.",
    ]


def test_a_narrower_one_wraps_words_within_their_column() -> None:
    assert laid_out(COLUMNS, ROWS, 64).splitlines() == [
        "MODEL                     CONTEXT    IN ($  DESCRIPTION",
        "                         (TOKENS)  PER 1M)",
        "gpt-5.4-mini              128,000     0.25  Small, and quick",
        "                                            enough for most of",
        "                                            what is asked.",
        "google/gemini-3.5-flash   unknown       10  Reads long",
        "                                            documents.",
    ]


def test_one_of_forty_columns_has_a_block_for_each_row() -> None:
    assert laid_out(COLUMNS, [ROWS[0], ("one", "", "1", "x")], 40).splitlines() == [
        "MODEL: gpt-5.4-mini",
        "CONTEXT (TOKENS): 128,000",
        "IN ($ PER 1M): 0.25",
        "DESCRIPTION: Small, and quick enough for",
        "  most of what is asked.",
        "",
        "MODEL: one",
        "IN ($ PER 1M): 1",
        "DESCRIPTION: x",
    ]


def test_what_has_no_heading_is_in_no_block() -> None:
    assert laid_out(("MEMBER", "COST", ""), [("x" * 30, "$0.02", "████")], 20).splitlines()[-1] == "COST: $0.02"


def test_a_long_word_of_a_block_is_broken_only_at_the_ends_of_lines() -> None:
    link = "https://example.com/" + "0123456789" * 10
    first, *rest = laid_out(("LINK", "TEXT"), [(link, "a b")], 30).splitlines()
    assert first == "LINK:"
    assert rest == [*(f"  {link[at : at + 28]}" for at in range(0, 120, 28)), "TEXT: a b"]


def test_the_longest_words_make_no_blocks_where_the_rest_fits() -> None:
    assert laid_out(("A", "B"), [("x", "y" * 200)], 40).splitlines()[:2] == ["A  B", "x  " + "y" * 37]


def test_a_column_without_numbers_is_not_one_of_numbers() -> None:
    rows = [("unknown", "one"), ("", "three")]
    assert laid_out(("LIMIT OF IT", "NAME"), rows, 80).splitlines()[1] == "unknown      one"


CELLS = st.text(st.sampled_from("ab 日é😀-,1"), max_size=60).map(lambda text: " ".join(text.split()))


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), st.integers(20, 120))
def test_nothing_is_left_out_and_no_line_is_too_long(rows: list[tuple[str, str, str]], width: int) -> None:
    lines = laid_out(("ONE", "TWO", "THREE"), rows, width).splitlines()
    assert max(map(cell_width, lines), default=0) <= width
    shown = sorted(character for character in "".join(lines) if character in "日é😀")
    assert shown == sorted(character for row in rows for cell in row for character in cell if character in "日é😀")


@given(CELLS, st.integers(2, 30))
def test_words_are_broken_only_where_they_are_longer_than_a_line(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    if all(cell_width(word) <= width for word in text.split()):
        assert " ".join(lines) == text


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("😀", 2), ("", 0), ("\u0644\u200c\u0627", 2)]
)
def test_the_columns_that_a_text_takes(text: str, width: int) -> None:
    assert cell_width(text) == width


def test_a_pipe_gets_headings_and_whole_cells_between_tabs() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        table(("ID", "TITLE"), [(ID, "a\tb\nc" + "d" * 300), (ID, None)])
    assert out.getvalue() == f"ID\tTITLE\n{ID}\ta b c{'d' * 300}\n{ID}\t\n"


def test_a_terminal_gets_the_ends_of_ids_and_lines_of_its_width() -> None:
    out = _Terminal()
    with redirect_stdout(out):
        table(("ID", "TITLE"), [(ID, "word " * 40)])
    first, row, *_ = out.getvalue().splitlines()
    assert first.split() == ["ID", "TITLE"]
    assert row.split()[0] == "456789ab"
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert aligned(("ID",), [(ID,)], 80) == "ID\n456789ab"
    assert aligned(("TARGET",), [(("turn", ID),)], 80) == "TARGET\nturn 456789ab"


def test_headings_alone_fit_too() -> None:
    assert max(map(len, laid_out(COLUMNS, [], 40).splitlines())) <= 40
    assert laid_out(COLUMNS, [], 200) == "  ".join(COLUMNS)


@pytest.mark.parametrize("make", [io.StringIO, _Terminal])
def test_where_there_is_no_row_there_are_no_headings(make: type[io.StringIO]) -> None:
    with redirect_stdout(make()) as out:
        table(("ID", "TITLE"), [])
    assert out.getvalue() == ""


def test_a_time_is_that_of_the_clock_on_the_wall_with_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    summer, winter = datetime(2026, 7, 2, 22, 30, 5, tzinfo=UTC), datetime(2026, 1, 2, 12, tzinfo=UTC)
    with zone(monkeypatch, "Europe/Berlin"):
        assert (local_time(summer), local_time(winter)) == ("2026-07-03 00:30 CEST", "2026-01-02 13:00 CET")
        assert local_time(summer, seconds=True) == "2026-07-03 00:30:05 CEST"
        assert utc_time(summer) == "2026-07-02 22:30:05 UTC"
    with zone(monkeypatch, "UTC"):
        assert local_time(summer) == "2026-07-02 22:30 UTC"


@pytest.mark.parametrize("name", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_a_time_that_no_clock_shows_is_written_all_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with zone(monkeypatch, name):
        assert (local_time(FIRST), local_time(LAST)) == ("no date", "no date")
        assert local_time(datetime.max.replace(tzinfo=UTC)).startswith(("9999-12-31", "10000"))
        assert re.match(r"0*1-01-01|9999|0001", local_time(datetime.min.replace(tzinfo=UTC)))
