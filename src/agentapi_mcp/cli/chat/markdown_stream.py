"""Markdown that is shown while it comes: every word once, as soon as nothing that follows can change how it looks.

The cursor never goes back. So nothing flickers, a terminal of another size spoils nothing, and what has scrolled away
stays as it was.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import COLOR_SYSTEMS, Console

from agentapi_mcp.base.visible import CONTEXT
from agentapi_mcp.cli.chat.markdown_lines import CODE, PLAIN, Line, Part, block_starts, lines_of, parse
from agentapi_mcp.cli.terminal import visible

_WIDE = 2  # cells of an ideograph or an emoji
_JOINERS = "\u200d"
_LARGEST_BLOCK = 20_000  # characters that are parsed again for each piece
_LARGEST_CODE = 40  # lines, since colouring them is slow
# The beginning of a line that may still become a list, a heading, a rule, a table or code.
_UNDECIDED = re.compile(r"[ \t>]*(?:[-*+_=#|:]*|\d{1,9}[.)]?|(?:`{1,}|~{1,})[^\n]*)[ \t]*")
# What may still become the beginning of emphasis, code or a link.
_MAY_OPEN = re.compile(r"`|\[(?![^\]]*\][^(\[:])|\*+(?!\s)|(?<!\w)_+(?!\s)|~~|<(?=[a-zA-Z/])|!$|\\$|&\w*$")


class MarkdownStream:
    """Renders Markdown piece by piece; `write` gets text with the colours of the console."""

    def __init__(self, write: Callable[[str], None], console: Console) -> None:
        self._console = console
        self._wrapper = _Wrapper(write, console)
        self._source = ""
        self._before = ""
        self._shown = _Shown()
        self._in_code = False
        self._has_line = False
        self._goes_on = True  # nothing has been shown, or a block was cut because of its size

    def feed(self, text: str) -> None:
        """Take a piece; `refresh` shows what is certain by then."""
        clean = visible(text, self._before)
        self._before = (self._before + clean)[-CONTEXT:]
        self._source += clean
        self._has_line |= "\n" in clean

    def refresh(self) -> None:
        """Show what can no longer change."""
        if self._in_code and not self._has_line:
            return
        self._has_line = False
        self._show(self._decided(), ended=False)
        if len(self._source) > _LARGEST_BLOCK or (self._in_code and self._source.count("\n") > _LARGEST_CODE):
            self._cut()

    def finish(self) -> None:
        """Show all that is left, and end the line."""
        self._show(self._source, ended=True)
        self._source = ""
        self._wrapper.end_line()

    def _decided(self) -> str:
        """Return the source without a last line that may still become anything."""
        head, end, tail = self._source.rpartition("\n")
        return head + end if _UNDECIDED.fullmatch(tail) else self._source

    def _show(self, source: str, *, ended: bool) -> None:
        tokens = parse(source)
        starts = block_starts(tokens)
        if not starts:
            return
        for begin, end in pairwise(starts):
            self._show_block(tokens[begin:end], ended=True)
            self._next_block()
        last = tokens[starts[-1] :]
        self._in_code = last[0].type == "fence"
        first_line = last[0].map[0] if last[0].map else 0
        cut = len("".join(source.splitlines(keepends=True)[:first_line])) if len(starts) > 1 else 0
        self._source = self._source[cut:]
        source = source[cut:]
        is_closed = ended or (source.endswith("\n\n") and last[0].type in {"paragraph_open", "heading_open"})
        if is_closed or not _may_be_table(source):
            self._show_block(last, ended=is_closed)

    def _next_block(self) -> None:
        self._shown = _Shown()
        self._goes_on = False
        self._wrapper.end_line()

    def _cut(self) -> None:
        """Forget a block that has become too large: what is certain of it stays, and the rest is one of its own."""
        fence = re.match(r" {0,3}(?:`{3,}|~{3,})[^\n]*\n", self._source)
        place = max(self._source.rfind("\n"), self._source.rfind(" ")) if fence is None else self._source.rfind("\n")
        if fence is not None and place < fence.end():
            return
        if place < 0:
            place = len(self._source) - 1
        head, rest = self._source[: place + 1], self._source[place + 1 :]
        self._show(head, ended=True)
        self._source = (fence[0] if fence else "") + rest
        self._shown = _Shown()
        if head.endswith("\n"):
            self._wrapper.end_line()
        self._goes_on = True

    def _show_block(self, tokens: list[Token], *, ended: bool) -> None:
        lines = lines_of(tokens, self._console)
        if not ended:
            lines = self._certain(lines, is_code=tokens[0].type in {"fence", "code_block"})
        if not self._goes_on and not self._shown.lines and lines:
            self._wrapper.blank_line()
            self._goes_on = True
        self._shown.go_on(lines, self._wrapper)

    def _certain(self, lines: list[Line], *, is_code: bool) -> list[Line]:
        """Return the lines without the end of the last that may still change."""
        if not lines:
            return lines
        *whole, last = lines
        if is_code and self._source.endswith("\n"):
            return lines
        if not last.wraps:
            return whole
        return [*whole, Line(last.first, last.rest, _certain_parts(last.parts, ended=self._source[-1:].isspace()))]


class _Shown:
    """What has been shown of a block: all of these lines, the last of them perhaps in part."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def go_on(self, lines: list[Line], wrapper: "_Wrapper") -> None:
        """Show what is new in these lines."""
        same = self._same(lines)
        if same + 1 == len(lines) == len(self.lines) and self.lines[same].startswith(lines[same].text):
            return  # less is certain than before
        for place, line in enumerate(lines[same:], same):
            begun = self.lines[place] if place < len(self.lines) and line.text.startswith(self.lines[place]) else None
            if begun is None:
                wrapper.begin(line)
            wrapper.write(_after(line.parts, len(begun or "")), line)
            self.lines[place:] = [line.text]

    def _same(self, lines: list[Line]) -> int:
        """Return how many lines at the beginning are whole, and need nothing."""
        pairs = zip(self.lines, lines, strict=False)
        same = next((place for place, (shown, line) in enumerate(pairs) if shown != line.text), None)
        return min(len(self.lines), len(lines)) if same is None else same


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
            for character in text if self._column + size > width else (text,):
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


def _certain_parts(parts: list[Part], *, ended: bool) -> list[Part]:
    """Return the parts up to what may still be markup, and to the end of the last whole word."""
    text = "".join(text for text, _ in parts)
    place = 0
    end = len(text)
    for part, style in parts:
        found = None if style.color == CODE.color else _MAY_OPEN.search(part)
        if found:
            end, ended = place + found.start(), False
            break
        place += len(part)
    while not ended and end and not text[end - 1].isspace() and cell_len(text[end - 1]) < _WIDE:
        end -= 1
    return _before(parts, len(text[:end].rstrip()))


def _before(parts: list[Part], end: int) -> list[Part]:
    kept = list[Part]()
    for text, style in parts:
        if end <= 0:
            break
        kept.append((text[:end], style))
        end -= len(text)
    return kept


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
            if piece.isspace() or cell_len(piece[0]) == _WIDE:
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
        if piece.isascii():
            yield piece
            continue
        begin = 0
        for place in range(1, len(piece)):
            widths = cell_len(piece[place - 1]), cell_len(piece[place])
            if widths[1] and _WIDE in (cell_len(piece[begin]), widths[1]) and piece[place - 1] not in _JOINERS:
                yield piece[begin:place]
                begin = place
        yield piece[begin:]


def _may_be_table(source: str) -> bool:
    """Whether the second line decides if this is a table, or it is one whose widths are not known yet."""
    first, *rest = source.split("\n")
    is_decided = len(rest) > 1 and re.fullmatch(r"[ \t>|:-]+", rest[0]) is None
    return "|" in first and not is_decided
