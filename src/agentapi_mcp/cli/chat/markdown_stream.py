"""Markdown that is shown while it comes: every word once, as soon as nothing that follows can change how it looks.

The cursor never goes back. So nothing flickers, a terminal of another size spoils nothing, and what has scrolled away
stays as it was. However a text is cut into pieces, it looks the same.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from markdown_it.token import Token
from rich.cells import cell_len, split_graphemes
from rich.console import COLOR_SYSTEMS, Console

from agentapi_mcp.base.visible import CONTEXT
from agentapi_mcp.cli.chat.markdown_inline import PLAIN, WIDE, Part, row_ends
from agentapi_mcp.cli.chat.markdown_lines import Line, lines_of
from agentapi_mcp.cli.chat.markdown_source import block_starts, decided, parse
from agentapi_mcp.cli.terminal import visible

_LARGEST_BLOCK = 20_000  # characters that are parsed again for each piece
_LARGEST_SHOWN = 19_000  # of them, so that nothing is shown that lies behind the place where one is cut
_FENCE = re.compile(r" {0,3}(?:`{3,}|~{3,})[ \t]*[^\s`]*(?=[^`\n]*\n)")
_LINE_ENDS = str.maketrans(dict.fromkeys("\r\v\f\x85\u2028\u2029", "\n"))


class MarkdownStream:
    """Renders Markdown piece by piece; `write` gets text with the colours of the console."""

    def __init__(self, write: Callable[[str], None], console: Console) -> None:
        self._console = console
        self._wrapper = _Wrapper(write, console)
        self._source = ""  # from the beginning of the block that is not whole
        self._before = ""
        self._had_return = False
        self._shown = _Shown()
        self._in_code = False
        self._has_line = False
        self._goes_on = True  # nothing has been shown, or a block was cut because of its size

    def feed(self, text: str) -> None:
        """Take a piece; `refresh` shows what is certain by then."""
        if not text:
            return
        if self._had_return and text.startswith("\n"):
            text = text[1:]
        self._had_return = text.endswith("\r")
        clean = visible(text.replace("\r\n", "\n").translate(_LINE_ENDS), self._before)
        self._before = (self._before + clean)[-CONTEXT:]
        self._source += clean
        self._has_line |= "\n" in clean

    def refresh(self) -> None:
        """Show what can no longer change."""
        if self._in_code and not self._has_line:
            return
        self._has_line = False
        self._show_large_blocks()
        self._show_certain()

    def finish(self) -> None:
        """Show all that is left, and end the line."""
        self._show_large_blocks()
        self._show_whole(self._source)
        self._source = ""
        self._wrapper.end_line()

    def _show_large_blocks(self) -> None:
        """Show what is too long to be parsed again and again: where it is cut depends on the text alone."""
        while len(self._source) >= _LARGEST_BLOCK:
            size = len(self._source)
            self._show_certain()
            if len(self._source) == size:
                self._cut()

    def _cut(self) -> None:
        """Show a part of a block that is too large; the rest is a block of its own."""
        place = _end_of_part(self._source)
        head, rest = self._source[:place], self._source[place:]
        fence = _FENCE.match(head)
        self._show_whole(head)
        self._source = (f"{fence[0]}\n" if fence else "") + rest
        self._goes_on = True

    def _show_certain(self) -> None:
        """Show what is certain of the beginning of what is left, of which the last block goes on."""
        source = decided(self._source[:_LARGEST_SHOWN])
        tokens = parse(source)
        starts = block_starts(tokens)
        if not starts:
            return
        last = tokens[starts[-1] :]
        self._in_code = last[0].type == "fence"
        self._show_blocks(source, tokens[: starts[-1]])
        self._show_lines(lines_of(source, last, self._console, goes_on=True))
        if len(starts) > 1:
            first_line = last[0].map[0] if last[0].map else 0
            self._source = self._source[sum(len(line) + 1 for line in source.split("\n")[:first_line]) :]

    def _show_whole(self, source: str) -> None:
        self._show_blocks(source, parse(source))

    def _show_blocks(self, source: str, tokens: list[Token]) -> None:
        for begin, end in pairwise((*block_starts(tokens), len(tokens))):
            self._show_lines(lines_of(source, tokens[begin:end], self._console, goes_on=False))
            self._goes_on = self._goes_on and self._shown.is_empty
            self._shown = _Shown()
            self._wrapper.end_line()

    def _show_lines(self, lines: list[Line]) -> None:
        if not self._goes_on and lines and self._shown.is_empty:
            self._wrapper.blank_line()
        self._shown.go_on(lines, self._wrapper)


class _Shown:
    """How much has been shown of a block: so many lines, and of the last of them so many characters."""

    def __init__(self) -> None:
        self._lines = self._characters = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been shown."""
        return self._lines == 0

    def go_on(self, lines: list[Line], wrapper: "_Wrapper") -> None:
        """Show what is new in these lines; there may be less than before, where it is uncertain again."""
        for place, line in enumerate(lines[max(self._lines - 1, 0) :], max(self._lines - 1, 0)):
            size = sum(len(text) for text, _ in line.parts)
            if place == self._lines:
                wrapper.begin(line)
                self._lines, self._characters = place + 1, 0
            if size > self._characters:
                wrapper.write(_after(line.parts, self._characters), line)
                self._characters = size


class _Wrapper:
    """Writes words, and begins another row where one does not fit."""

    def __init__(self, write: Callable[[str], None], console: Console) -> None:
        self._write = write
        self._console = console
        self._colours = COLOR_SYSTEMS.get(console.color_system or "")
        self._width = console.width
        self._column = 0
        self._space: Part | None = None
        self._has_row = False

    def begin(self, line: Line) -> None:
        """Begin a line."""
        self.end_line()
        self._write(line.first)
        self._column = cell_len(line.first)
        self._has_row = True

    def end_line(self) -> None:
        """End the line, if one is begun."""
        if self._has_row:
            self._write("\n")
        self._has_row, self._column, self._space = False, 0, None

    def blank_line(self) -> None:
        """Leave a line blank."""
        self.end_line()
        self._write("\n")

    def write(self, parts: list[Part], line: Line) -> None:
        """Write a part of the line."""
        self._width = self._console.width
        if not line.wraps:
            for part in parts:
                self._put(part)
            return
        for word in _words(parts):
            if word[0][0].isspace():
                self._space = (" ", word[0][1])
            else:
                self._put_word(word, line)

    def _put_word(self, word: list[Part], line: Line) -> None:
        width = self._width
        size = sum(cell_len(text) for text, _ in word)
        space = 1 if self._space is not None else 0
        if self._column + space + size > width and self._column > cell_len(line.rest):
            self._next_row(line)
        elif self._space is not None:
            self._put(self._space)
        self._space = None
        for text, style in word:
            for character in _graphemes(text) if self._column + size > width else (text,):
                if self._column + cell_len(character) > width and self._column > cell_len(line.rest):
                    self._next_row(line)
                self._put((character, style))

    def _next_row(self, line: Line) -> None:
        self._write(f"\n{line.rest}")
        self._column = cell_len(line.rest)

    def _put(self, part: Part) -> None:
        text, style = part
        style = style.without_color if self._console.no_color else style
        self._write(text if style == PLAIN else style.render(text, color_system=self._colours))
        self._column += cell_len(text)


def _after(parts: list[Part], begin: int) -> list[Part]:
    kept = list[Part]()
    for text, style in parts:
        if begin < len(text):
            kept.append((text[max(begin, 0) :], style))
        begin -= len(text)
    return kept


def _words(parts: list[Part]) -> Iterator[list[Part]]:
    """Return words with their styles, and the space between them; a wide character is a word of its own."""
    word = list[Part]()
    for text, style in parts:
        for piece in _pieces(text):
            if piece.isspace() or _is_wide(piece):
                if word:
                    yield word
                word = []
                yield [(piece, style)]
            else:
                word.append((piece, style))
    if word:
        yield word


def _pieces(text: str) -> Iterator[str]:
    """Split text where a row may end: at space, and around wide characters with what is joined to them."""
    for piece in re.findall(r"\s+|\S+", text):
        for begin, end in pairwise((0, *row_ends(piece), len(piece))):
            yield piece[begin:end]


def _is_wide(piece: str) -> bool:
    return not piece.isascii() and split_graphemes(piece)[0][0][2] == WIDE


def _graphemes(text: str) -> list[str]:
    return [text[begin:end] for begin, end, _ in split_graphemes(text)[0]]


def _end_of_part(source: str) -> int:
    """Return where a large block is cut: at the end of a line, or else of a word."""
    ends = (source.rfind(space, _LARGEST_SHOWN, _LARGEST_BLOCK) + 1 for space in "\n ")
    return next(filter(None, ends), _LARGEST_BLOCK)
