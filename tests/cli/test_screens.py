"""The screen from which the picture of a conversation is drawn: what is written stands where a terminal has it."""

import pytest

from tests.support.screens import ScreenOfTerminal, svg


def screen_of(written: str, columns: int = 10) -> ScreenOfTerminal:
    screen = ScreenOfTerminal(columns)
    screen.feed(written)
    return screen


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("one\r\ntwo", ["one", "two"]),
        ("1234567890ab", ["1234567890", "ab"]),
        ("1234567890\r\nab", ["1234567890", "ab"]),  # a full row wraps with the next character alone
        ("abc\rX", ["Xbc"]),
        ("abc\b\bX", ["aXc"]),
        ("one\r\ntwo\x1b[A\r\x1b[Kx", ["x", "two"]),
        ("one\r\ntwo\x1b[1A\r\x1b[2C\x1b[J!", ["on!"]),
        ("a\x1b[3Cb\x1b[2Dc", ["a  cb"]),
        ("\x1b[?2004h\x1b[1;36mred\x1b[0m \x1b[38;5;9mx\x1b[48;2;1;2;3my", ["red xy"]),
    ],
)
def test_what_is_written_stands_where_a_terminal_has_it(written: str, seen: list[str]) -> None:
    assert screen_of(written).text() == seen


@pytest.mark.parametrize("written", ["\x1b[2J", "\x1b[5;5H", "\x07", "日"])
def test_what_the_screen_cannot_draw_is_an_error(written: str) -> None:
    with pytest.raises(AssertionError):
        screen_of(written)


def test_a_picture_has_the_text_in_its_style_and_nothing_below_the_last_row() -> None:
    drawn = svg(screen_of("\x1b[1;32m<b>\x1b[0m &\r\n\n\n"), title="A", description="B")
    assert 'fill="#98c379" font-weight="bold">&lt;b&gt;</text>' in drawn
    assert "&amp;</text>" in drawn
    assert f'height="{34 + 19 + 18}" role' in drawn
