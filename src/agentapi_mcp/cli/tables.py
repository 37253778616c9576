"""The layout of lists in a terminal: aligned columns, wrapped to fit, or a block for each row where nothing fits."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

_GAP = "  "
_HEADING_LINES = 2
_LONGEST_WORD = 32  # columns; a longer one may be broken
_NUMBER = re.compile(r"[-+]?\$?\d[\d,.]*%?")
_NO_NUMBER = frozenset({"", "-", "unknown", "none"})  # what may stand among numbers


def laid_out(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return rows below headings, in lines of at most `width` columns of the terminal; nothing is left out.

    Numbers are aligned to the right. Words are wrapped within their cell. Where even that does not fit, as in a narrow
    terminal, each row becomes a block of lines, one for each cell that is not empty; what has no heading, as a bar, is
    left out there.
    """
    lines = [list(columns), *map(list, rows)]
    widths = _widths(lines, width - len(_GAP) * (len(columns) - 1))
    if widths is None:
        return "\n\n".join("\n".join(_block(columns, row, width)) for row in rows)
    to_right = [_is_number([row[at] for row in rows]) for at in range(len(columns))]
    return "\n".join(line for row in lines for line in _lines(row, widths, to_right))


def cell_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: ideographs and emoji take two, marks none."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _widths(lines: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return the widths of the columns; None if the words do not fit beside each other."""
    columns = list(zip(*lines, strict=True))
    widths = [max(map(cell_width, column)) for column in columns]
    if sum(widths) <= room:
        return widths
    widths = [min(max([_heading_width(name), *map(cell_width, cells)]), room) for name, *cells in columns]
    least = [
        max(_heading_width(name), min(max(map(_word_width, cells), default=0), _LONGEST_WORD))
        for name, *cells in columns
    ]
    if sum(least) > room:
        return None
    while sum(widths) > room:
        widest = max((at for at in range(len(widths)) if widths[at] > least[at]), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _heading_width(name: str) -> int:
    """Return how narrow a heading can be in two lines."""
    return next(
        width for width in range(_word_width(name), len(name) + 1) if len(wrapped(name, width)) <= _HEADING_LINES
    )


def _word_width(text: str) -> int:
    return max(map(cell_width, text.split()), default=0)


def _is_number(cells: Sequence[str]) -> bool:
    found = [cell for cell in cells if cell not in _NO_NUMBER]
    return bool(found) and all(_NUMBER.fullmatch(cell) for cell in found)


def _lines(row: Sequence[str], widths: Sequence[int], to_right: Sequence[bool]) -> Iterator[str]:
    """Yield the lines of a row, of which the longest cell decides how many there are."""
    cells = [wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, cells))):
        parts = [cell[number] if number < len(cell) else "" for cell in cells]
        yield _GAP.join(map(_padded, parts, widths, to_right)).rstrip()


def _padded(text: str, width: int, to_right: bool) -> str:  # noqa: FBT001  # by `map`
    blank = " " * (width - cell_width(text))
    return blank + text if to_right else text + blank


def _block(columns: Sequence[str], row: Sequence[str], width: int) -> Iterator[str]:
    for name, cell in zip(columns, row, strict=True):
        if name and cell:
            first, *rest = wrapped(f"{name}: {cell}", width, indent=2)
            yield first
            yield from (f"  {line}" for line in rest)


def wrapped(text: str, width: int, *, indent: int = 0) -> list[str]:
    """Break a text into lines between its words, and within a word that is longer than a line.

    The lines after the first leave room for an indent.
    """
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_width(joined) <= width - (indent if len(lines) > 1 else 0):
            lines[-1] = joined
        else:
            lines += _broken(word, width - indent)
    return [line for line in lines if line] or [""]


def _broken(word: str, width: int) -> Iterator[str]:
    part = ""
    for character in word:
        if part and cell_width(part + character) > width:
            yield part
            part = ""
        part += character
    yield part
