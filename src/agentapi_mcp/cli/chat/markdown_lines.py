"""Markdown as styled lines that are not wrapped yet, so that they fit whatever width the terminal has by then."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console
from rich.style import Style
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from agentapi_mcp.cli.terminal import visible

Part = tuple[str, Style]
PLAIN = Style.null()
_BOLD, _ITALIC, _STRUCK = Style(bold=True), Style(italic=True), Style(strike=True)
CODE = Style(color="cyan")
_LINK, _FAINT = Style(underline=True), Style(dim=True)
_HEADING = {"h1": Style(bold=True, underline=True), "h2": Style(bold=True, underline=True)}
_ADDED = {"strong_open": _BOLD, "em_open": _ITALIC, "s_open": _STRUCK, "link_open": _LINK}
_SEPARATED = {"paragraph_open", "heading_open", "blockquote_open", "fence", "code_block", "hr", "html_block"}
_BULLET, _BAR, _INDENT, _RULE = "• ", "│ ", "  ", "─" * 20
_PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_TAB = 4


@dataclass(slots=True)
class Line:
    """A line before it is wrapped: `first` stands before its first row, `rest` before the others.

    One that does not wrap is printed as it is: code, and the rows of a table.
    """

    first: str
    rest: str
    parts: list[Part] = field(default_factory=list[Part])
    wraps: bool = True

    @property
    def text(self) -> str:
        """The text without styles."""
        return "".join(text for text, _ in self.parts)


def parse(source: str) -> list[Token]:
    """Parse Markdown: CommonMark with tables and struck text."""
    return _PARSER.parse(source)


def block_starts(tokens: Sequence[Token]) -> list[int]:
    """Return where the outermost blocks begin, as indices of tokens."""
    return [place for place, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0]


def lines_of(tokens: Sequence[Token], console: Console) -> list[Line]:
    """Return the lines of blocks; tables are as wide as the console."""
    return _Lines(console).of(tokens)


@dataclass(slots=True)
class _Container:
    """A list item or a quote: what stands before its lines."""

    first: str
    rest: str
    begun: bool = False


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._containers: list[_Container] = []
        self._numbers: list[int | None] = []
        self._lines: list[Line] = []
        self._style = PLAIN

    def of(self, tokens: Sequence[Token]) -> list[Line]:
        place = 0
        while place < len(tokens):
            token = tokens[place]
            if token.type == "table_open":
                end = next((at for at in range(place, len(tokens)) if tokens[at].type == "table_close"), len(tokens))
                self._table(tokens[place:end])
                place = end
            else:
                self._block(token)
            place += 1
        return self._lines

    def _block(self, token: Token) -> None:
        if token.type in _SEPARATED and not token.hidden:
            self._separate()
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
                self._leaf(token)

    def _leaf(self, token: Token) -> None:
        match token.type:
            case "heading_open":
                self._style = _HEADING.get(token.tag, _BOLD)
            case "heading_close":
                self._style = PLAIN
            case "inline":
                self._inline(token)
            case "fence" | "code_block":
                self._code(token.content, (token.info.split() or [""])[0])
            case "hr":
                self._add([(_RULE, _FAINT)], wraps=False)
            case "html_block":
                for line in token.content.rstrip("\n").split("\n"):
                    self._add([(line, PLAIN)])
            case _:
                pass

    def _item(self) -> _Container:
        number = self._numbers[-1]
        if number is None:
            return _Container(_BULLET, " " * len(_BULLET))
        self._numbers[-1] = number + 1
        return _Container(f"{number}. ", " " * (len(str(number)) + 2))

    def _separate(self) -> None:
        """Leave a line between blocks, but none before the first block of an item or a quote."""
        if self._lines and all(container.begun for container in self._containers):
            rest = "".join(container.rest for container in self._containers)
            self._lines.append(Line(rest.rstrip(), rest.rstrip()))

    def _add(self, parts: list[Part], *, wraps: bool = True) -> None:
        first = "".join(each.rest if each.begun else each.first for each in self._containers)
        rest = "".join(each.rest for each in self._containers)
        for each in self._containers:
            each.begun = True
        self._lines.append(Line(first, rest, parts, wraps))

    def _inline(self, token: Token) -> None:
        parts = list[Part]()
        for text, style in inline_parts(token.children or [], self._style):
            if text == "\n":
                self._add(parts)
                parts = []
            else:
                parts.append((text, style))
        self._add(parts)

    def _code(self, code: str, language: str) -> None:
        highlighted = Syntax(code, language or "text", theme="ansi_dark", tab_size=_TAB).highlight(code)
        highlighted.rstrip()
        for line in list[Text](highlighted.split("\n", allow_blank=True)) if code.strip() else []:
            segments = line.render(self._console)
            parts = [(each.text.expandtabs(_TAB), each.style or PLAIN) for each in segments if each.text]
            self._add([(_INDENT, PLAIN), *parts], wraps=False)

    def _table(self, tokens: Sequence[Token]) -> None:
        self._separate()
        rows = list[list[Text]]()
        for token in tokens:
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline":
                rows[-1].append(Text.assemble(*inline_parts(token.children or [], PLAIN)))
        table = Table(show_edge=False, header_style=_BOLD)
        for heading in rows[0]:
            table.add_column(heading)
        for row in rows[1:]:
            table.add_row(*row)
        before = sum(len(container.rest) for container in self._containers)
        options = self._console.options.update(width=max(self._console.width - before, 1))
        for segments in self._console.render_lines(table, options, pad=False):
            self._add([(each.text, each.style or PLAIN) for each in segments], wraps=False)


def inline_parts(tokens: Sequence[Token], style: Style) -> Iterator[Part]:
    """Return text with styles; a line break is a part of its own.

    What is hidden in the source as an entity, such as `&#x202E;`, is shown for what it is, as in the source.
    """
    styles, targets = [style], list[str]()
    for token in tokens:
        if token.nesting > 0:
            styles.append(styles[-1] + _ADDED.get(token.type, PLAIN))
            targets.append(str(token.attrGet("href") or ""))
        elif token.nesting < 0:
            styles.pop()
            if target := targets.pop():
                yield visible(f" ({target})"), styles[-1] + _FAINT
        else:
            text, its_style = _text_of(token, styles[-1])
            yield visible(text), its_style


def _text_of(token: Token, style: Style) -> Part:
    match token.type:
        case "code_inline":
            return token.content, style + CODE
        case "softbreak":
            return " ", style
        case "hardbreak":
            return "\n", style
        case "image":
            return f"[{token.content}] ({token.attrGet('src')})", style + _FAINT
        case _:
            return token.content, style
