"""Markdown as styled lines that are not wrapped yet, so that they fit whatever width the terminal has by then."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.syntax import ANSI_DARK, ANSISyntaxTheme, Syntax
from rich.table import Table
from rich.text import Text

from agentapi_mcp.cli.chat.markdown_inline import ASIDE, PLAIN, Inline, Part
from agentapi_mcp.cli.chat.markdown_source import DEEPEST
from agentapi_mcp.cli.terminal import visible

_BOLD, _ITALIC = Style(bold=True), Style(italic=True)
_HEADING = {"h1": Style(bold=True, underline=True), "h2": Style(bold=True, underline=True)}
_SEPARATED = {"paragraph_open", "heading_open", "blockquote_open", "fence", "code_block", "hr"}
_BULLET, _BAR, _INDENT, _RULE = "• ", "│ ", "  ", "─" * 20
_TAB = 4
_COLOURED_TOGETHER = 20  # lines, of which each is coloured with those before it
_KEPT_PARTS = 2048
# Grey, and what terminals show as grey, is for what the program says of an answer.
_CODE = ANSISyntaxTheme(
    {kind: _ITALIC if style.dim else style for kind, style in ANSI_DARK.items() if style != Style(color="bright_black")}
)
_NARROWEST_COLUMN, _BETWEEN_COLUMNS = 6, 3  # cells


@dataclass(slots=True)
class Line:
    """A line before it is wrapped: `first` stands before its first row, `rest` before the others.

    One that does not wrap is printed as it is: code, and the rows of a table.
    """

    first: str
    rest: str
    parts: list[Part] = field(default_factory=list[Part])
    wraps: bool = True


def lines_of(source: str, tokens: Sequence[Token], console: Console, *, goes_on: bool) -> list[Line]:
    """Return the lines of a block, which tokens of the source are; where it goes on, those that cannot change any more.

    Tables are as wide as the console.
    """
    lines = _Lines(source, console)
    if not goes_on:
        return lines.of(tokens)
    last = max(place for place, token in enumerate(tokens) if token.nesting >= 0)
    table = next((place for place in range(last, -1, -1) if tokens[place].type.startswith("table_")), None)
    if table is not None and tokens[table].type == "table_open":
        return lines.of(tokens[:table])  # its columns become wider with each row
    return lines.of(tokens[:last], tokens[last])


@dataclass(slots=True)
class _Container:
    """A list item or a quote: what stands before its lines."""

    first: str
    rest: str
    begun: bool = False


class _Lines:
    def __init__(self, source: str, console: Console) -> None:
        self._source = source.split("\n")
        self._is_line_whole = source.endswith("\n")
        self._console = console
        self._containers: list[_Container] = []
        self._numbers: list[int | None] = []
        self._lines: list[Line] = []
        self._style = PLAIN

    def of(self, tokens: Sequence[Token], open_one: Token | None = None) -> list[Line]:
        """Return the lines of tokens, and those of one that follows them and is not whole."""
        place = 0
        while place < len(tokens):
            token = tokens[place]
            if token.type == "table_open":
                end = next((at for at in range(place, len(tokens)) if tokens[at].type == "table_close"), len(tokens))
                self._table(tokens[place:end])
                place = end
            else:
                self._block(token)
                if token.level >= DEEPEST - 1 and tokens[place + 1 : place + 2] and tokens[place + 1].nesting < 0:
                    self._as_written(token)
            place += 1
        if open_one is not None:
            self._block(open_one, goes_on=True)
        return self._lines

    def _block(self, token: Token, *, goes_on: bool = False) -> None:
        if token.type in _SEPARATED:
            self._separate(token)
        match token.type:
            case "bullet_list_open":
                self._numbers.append(None)
            case "ordered_list_open":
                first = token.attrGet("start")  # None for 1, and 0 for 0
                self._numbers.append(1 if first is None else int(first))
            case "bullet_list_close" | "ordered_list_close":
                self._numbers.pop()
            case "list_item_open":
                self._containers.append(self._item())
            case "blockquote_open":
                self._containers.append(_Container(_BAR, _BAR))
            case "list_item_close" | "blockquote_close":
                self._containers.pop()
            case _:
                self._leaf(token, goes_on=goes_on)

    def _leaf(self, token: Token, *, goes_on: bool) -> None:
        match token.type:
            case "heading_open":
                self._style = _HEADING.get(token.tag, _BOLD)
            case "heading_close":
                self._style = PLAIN
            case "inline":
                self._inline(token, goes_on=goes_on)
            case "fence" | "code_block":
                self._code(token.content, token.info.strip(), goes_on=goes_on)
            case "hr":
                self._add([(_RULE, PLAIN)], wraps=False)
            case _:
                pass

    def _item(self) -> _Container:
        number = self._numbers[-1]
        if number is None:
            return _Container(_BULLET, " " * len(_BULLET))
        self._numbers[-1] = number + 1
        return _Container(f"{number}. ", " " * (len(str(number)) + 2))

    def _separate(self, token: Token) -> None:
        """Leave a line between blocks, in a list where the source has one; none before the first of an item or a quote.

        Whether a list is a loose one, only its end tells.
        """
        line = token.map[0] if token.map else 0
        if self._numbers and line and self._source[line - 1].strip(" \t>"):
            return
        if self._lines and all(container.begun for container in self._containers):
            rest = "".join(container.rest for container in self._containers)
            self._lines.append(Line(rest.rstrip(), rest.rstrip()))

    def _add(self, parts: list[Part], *, wraps: bool = True) -> None:
        first = "".join(each.rest if each.begun else each.first for each in self._containers)
        rest = "".join(each.rest for each in self._containers)
        for each in self._containers:
            each.begun = True
        self._lines.append(Line(first, rest, parts, wraps))

    def _inline(self, token: Token, *, goes_on: bool) -> None:
        inline = Inline(token.children or [], self._style)
        ended = self._is_line_whole or self._source[-1][-1:].isspace()
        shown = inline.certain(ended=ended) if goes_on else inline.parts
        if goes_on and not shown:
            return
        parts = list[Part]()
        for text, style in shown:
            if text == "\n":
                self._add(parts)
                parts = []
            else:
                parts.append((text, style))
        self._add(parts)

    def _code(self, code: str, info: str, *, goes_on: bool) -> None:
        if goes_on and not self._is_line_whole:
            code = code[: code.rstrip("\n").rfind("\n") + 1]
        language = (info.split() or [""])[0]
        is_known = _is_language(language)
        if info != language or not is_known:  # else it is the name of a language, and nothing that anybody wrote
            self._add([(visible(info), ASIDE)])
        for line in _coloured(code, language if is_known else "", self._console):
            self._add([(_INDENT, PLAIN), *line], wraps=False)

    def _as_written(self, token: Token) -> None:
        begin, end = token.map or (0, 0)
        for line in self._source[begin:end]:
            self._add([(line, PLAIN)])

    def _table(self, tokens: Sequence[Token]) -> None:
        self._separate(tokens[0])
        rows = list[list[Text]]()
        for token in tokens:
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline":
                rows[-1].append(Text.assemble(*Inline(token.children or [], PLAIN).parts))
        before = sum(cell_len(container.rest) for container in self._containers)
        width = max(self._console.width - before, 1)
        columns = max(map(len, rows))
        if width < columns * _NARROWEST_COLUMN + (columns - 1) * _BETWEEN_COLUMNS:
            self._records(rows)
            return
        table = Table(show_edge=False, header_style=_BOLD)
        for heading in (*rows[0], *(Text() for _ in range(columns - len(rows[0])))):
            table.add_column(heading, overflow="fold")
        for row in rows[1:]:
            table.add_row(*row)
        for segments in self._console.render_lines(table, self._console.options.update(width=width), pad=False):
            self._add([(each.text, each.style or PLAIN) for each in segments], wraps=False)

    def _records(self, rows: Sequence[Sequence[Text]]) -> None:
        """Add a table that is too wide, cell below cell."""
        for place, row in enumerate(rows):
            if place:
                self._add([])
            for cell in row:
                self._add([(each.text, each.style or PLAIN) for each in cell.render(self._console) if each.text])


def _coloured(code: str, language: str, console: Console) -> Iterator[list[Part]]:
    """Colour code part by part, since it is slow."""
    lines = code.expandtabs(_TAB).rstrip("\n").split("\n") if code.strip() else []
    for begin in range(0, len(lines), _COLOURED_TOGETHER):
        for line in _coloured_part("\n".join(lines[begin : begin + _COLOURED_TOGETHER]), language):
            yield [(each.text, each.style or PLAIN) for each in line.render(console) if each.text]


@lru_cache(maxsize=_KEPT_PARTS)
def _coloured_part(code: str, language: str) -> tuple[Text, ...]:
    """Colour each line as it was when it was the last one: whatever comes after it, it has been shown."""
    before, end, _ = code.rpartition("\n")
    last = Syntax(code, language or "text", theme=_CODE).highlight(code).split("\n", allow_blank=True)[code.count("\n")]
    return (*(_coloured_part(before, language) if end else ()), last)


def _is_language(word: str) -> bool:
    return not word or Syntax("", word).lexer is not None
