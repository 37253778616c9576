"""A terminal's screen as a person sees it, from the bytes that were written to it, and a picture of it as SVG."""

import re
from dataclasses import dataclass, field
from html import escape

from rich.ansi import SGR_STYLE_MAP
from rich.cells import cell_len
from rich.color import Color, parse_rgb_hex
from rich.style import Style
from rich.terminal_theme import TerminalTheme

_TOKEN = re.compile(r"\x1b\[(?P<mark>\??)(?P<numbers>[0-9;]*)(?P<what>[A-Za-z])|(?P<other>.)", re.DOTALL)
_PLAIN = Style()
# Readable on its own background, whatever the page around it has.
_DARK = "2e3440 e06c75 98c379 e5c07b 61afef c678dd 56b6c2 abb2bf"
_BRIGHT = "7f889c f08089 acd78d f5d48f 7fc3ff da96f1 74cdd8 ffffff"


def _colors(named: str) -> list[tuple[int, int, int]]:
    found = (parse_rgb_hex(color) for color in named.split())
    return [(color.red, color.green, color.blue) for color in found]


THEME = TerminalTheme((30, 34, 42), (214, 218, 226), _colors(_DARK), _colors(_BRIGHT))
_CELL = 8.4  # the width of a character of 14 pixels in the fonts named below
_ROW, _MARGIN, _BAR = 19, 18, 34


@dataclass
class ScreenOfTerminal:
    """What stands on a screen that never scrolls; a sequence that it does not know is an error."""

    columns: int
    rows: list[list[tuple[str, Style]]] = field(default_factory=list[list[tuple[str, Style]]])
    row: int = 0
    column: int = 0
    style: Style = _PLAIN

    def feed(self, written: str) -> None:
        """Read what a program has written."""
        for token in _TOKEN.finditer(written):
            if token["what"]:
                numbers = [int(number or 0) for number in token["numbers"].split(";")]
                self._control(token["mark"] + token["what"], numbers)
            else:
                self._put(token["other"])

    def text(self) -> list[str]:
        """Return the rows without their styles."""
        return ["".join(char for char, _ in row).rstrip() for row in self.rows]

    def _control(self, what: str, numbers: list[int]) -> None:
        if what == "m":
            self._styled(numbers)
        elif what in {"A", "B", "C", "D"}:
            self._move(what, max(1, numbers[0]))
        elif what in {"K", "J"} and numbers == [0]:
            del self._line()[self.column :]
            if what == "J":
                del self.rows[self.row + 1 :]
        else:  # the cursor's shape, bracketed paste and wrapping change nothing that is seen here
            assert what in {"?h", "?l"}, f"the screen does not know {what} {numbers}"

    def _move(self, where: str, count: int) -> None:
        down, right = {"A": (-1, 0), "B": (1, 0), "C": (0, 1), "D": (0, -1)}[where]
        self.row = max(0, self.row + down * count)
        if right:
            self.column = min(self.columns - 1, max(0, min(self.column, self.columns - 1) + right * count))

    def _styled(self, numbers: list[int]) -> None:
        while numbers:
            code = numbers.pop(0)
            if code in {38, 48}:
                color = _color(numbers)
                self.style += Style(color=color) if code == 38 else Style(bgcolor=color)
            else:
                self.style = self.style + Style.parse(SGR_STYLE_MAP[code]) if code else _PLAIN

    def _put(self, char: str) -> None:
        match char:
            case "\r":
                self.column = 0
            case "\n":
                self.row += 1
            case "\b":
                self.column = max(0, self.column - 1)
            case _:
                assert char.isprintable(), repr(char)
                assert cell_len(char) == 1, f"{char!r} is wide, which this screen does not draw"
                self._write(char)

    def _write(self, char: str) -> None:
        if self.column == self.columns:  # a terminal wraps when the next character comes
            self.row, self.column = self.row + 1, 0
        line = self._line()
        line.extend([(" ", _PLAIN)] * (self.column + 1 - len(line)))
        line[self.column] = (char, self.style)
        self.column += 1

    def _line(self) -> list[tuple[str, Style]]:
        self.rows.extend([] for _ in range(self.row + 1 - len(self.rows)))
        return self.rows[self.row]


def _color(numbers: list[int]) -> Color:
    if numbers.pop(0) == 5:
        return Color.from_ansi(numbers.pop(0))
    red, green, blue = (numbers.pop(0) for _ in range(3))
    return Color.from_rgb(red, green, blue)


def svg(screen: ScreenOfTerminal, *, title: str, description: str) -> str:
    """Draw a screen in a window of its own, which looks the same on a light and on a dark page."""
    width = round(screen.columns * _CELL + 2 * _MARGIN)
    used = max((place for place, text in enumerate(screen.text(), 1) if text), default=0)
    height = _BAR + used * _ROW + _MARGIN
    drawn = [part for place, row in enumerate(screen.rows[:used]) for part in _drawn(row, place)]
    lights = "".join(
        f'<circle cx="{20 + place * 18}" cy="17" r="5.5" fill="{color}"/>'
        for place, color in enumerate(("#e06c75", "#e5c07b", "#98c379"))
    )
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    edge = f'x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="9" stroke="#5c6370"'
    font = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(description)}</desc>',
        f'<rect {edge} fill="{THEME.background_color.hex}"/>',
        lights,
        f'<g font-family="{font}" font-size="14" xml:space="preserve">',
        *drawn,
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _drawn(row: list[tuple[str, Style]], place: int) -> list[str]:
    """Draw a row, each stretch of one style at its place, and as wide as its characters are."""
    parts: list[str] = []
    start = 0
    while start < len(row):
        style, end = row[start][1], start
        while end < len(row) and row[end][1] == style:
            end += 1
        parts += _stretch("".join(char for char, _ in row[start:end]), style, start, place)
        start = end
    return parts


def _stretch(text: str, style: Style, start: int, place: int) -> list[str]:
    ink, ground = _ink(style), style.bgcolor
    x, y, width = _MARGIN + start * _CELL, _BAR + place * _ROW, len(text) * _CELL
    parts: list[str] = []
    if ground is not None and not ground.is_default:
        hexed = ground.get_truecolor(THEME, foreground=False).hex
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW}" fill="{hexed}"/>')
    if text.strip():
        weight = ' font-weight="bold"' if style.bold else ""
        slant = ' font-style="italic"' if style.italic else ""
        line = ' text-decoration="underline"' if style.underline else ""
        parts.append(
            f'<text x="{x:.1f}" y="{y + 14}" textLength="{width:.1f}" fill="{ink}"{weight}{slant}{line}>'
            f"{escape(text, quote=False)}</text>"
        )
    return parts


def _ink(style: Style) -> str:
    if style.color is not None and not style.color.is_default:
        return style.color.get_truecolor(THEME).hex
    return "#8b93a3" if style.dim else THEME.foreground_color.hex
