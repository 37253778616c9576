"""Line numbers of TOML keys, which the parser does not report."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

Path = tuple[str | int, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = rf"^\s*(\[\[?)\s*({_DOTTED})\s*\]\]?"
_KEY = rf"^\s*({_DOTTED})\s*=\s*(.*)$"
_DELIMITERS = ('"""', "'''")


class TomlLines:
    """Lines of the tables and keys of a valid TOML text; everything within a value has the value's line."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _lines(self) -> Mapping[Path, int]:
        # Read when a line is first asked for: of a file without a fault, none is.
        return _Reading(self._text).lines

    def line_of(self, path: Sequence[str | int]) -> int:
        """Return the line of `path`, or of its nearest enclosing key."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(tuple(path[:length]))
            if line is not None:
                return line
        return 1


class _Reading:
    """Reads a text for the lines in it."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._lists: dict[Path, int] = {}
        table: Path = ()
        open_string: str | None = None
        is_header, is_key = re.compile(_HEADER), re.compile(_KEY)
        for number, line in enumerate(text.split("\n"), start=1):
            if open_string is not None:
                open_string = None if open_string in line else open_string
            elif header := is_header.match(line):
                table = self._enter(header[1], _parts(header[2]))
                self._note(table, number)
            elif key := is_key.match(line):
                path = table + _parts(key[1])
                self._note(path, number)
                open_string = _opened(key[2])

    def _note(self, path: Path, number: int) -> None:
        self.lines[path] = number
        for length in range(1, len(path)):  # a dotted key declares its tables implicitly
            self.lines.setdefault(path[:length], number)

    def _enter(self, bracket: str, names: Path) -> Path:
        path: Path = ()
        for depth, name in enumerate(names, start=1):
            path = (*path, name)
            if path in self._lists and depth < len(names):
                path = (*path, self._lists[path])
        if bracket == "[[":
            self._lists[path] = self._lists.get(path, -1) + 1
            path = (*path, self._lists[path])
        return path


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def _opened(value: str) -> str | None:
    for delimiter in _DELIMITERS:
        if value.startswith(delimiter):
            return None if delimiter in value[len(delimiter) :] else delimiter
    return None
