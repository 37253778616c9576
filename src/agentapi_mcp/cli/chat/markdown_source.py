"""Parses Markdown so that no line that follows changes what an earlier one is, and no word is left out.

It is CommonMark with tables and struck text, and without the three things that only a later line decides or that hide
what was written: headings that are underlined, definitions of links, and HTML, which is shown as it is. A table begins
with a bar.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.table import escapedSplit, getLine, table
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

_DEEPEST_BRACKET = 4  # open ones before it; a picture in a link has one
DEEPEST = 40  # quotes and lists within each other; what is deeper is shown as it was written
_CONTAINERS = r"(?:[ \t>*+-]|\d{1,9}[.)])*"
# The beginning of a line that may still become a list, a heading, a rule, a table or code.
_UNDECIDED = re.compile(
    r"(?:[^\S\n]|[>*+_=#|:-]|\d{1,9}[.)])*(?:\d{1,9}|`{1,2}|~{1,2}|`{3,}[^`\n]*|~{3,}[^\n]*)?"
    rf"|{_CONTAINERS}\|[^\n]*"
)
_ROW = re.compile(rf"{_CONTAINERS}\|[^\n]*")
_BELOW_HEADINGS = re.compile(rf"{_CONTAINERS}[|:-][ \t|:-]*")


def parse(source: str) -> list[Token]:
    """Parse the source into blocks."""
    return _PARSER.parse(source)


def block_starts(tokens: Sequence[Token]) -> list[int]:
    """Return where the outermost blocks begin, as indices of tokens."""
    return [place for place, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0]


def decided(source: str) -> str:
    """Return the source without the last lines, which what follows may still make into anything."""
    lines = source.split("\n")
    tail = lines.pop()
    if not _UNDECIDED.fullmatch(tail):
        return source
    while lines and _BELOW_HEADINGS.fullmatch(lines[-1]):
        lines.pop()
    if lines and _ROW.fullmatch(lines[-1]):
        lines.pop()
    return "".join(f"{line}\n" for line in lines)


def _table_with_bars(state: StateBlock, begin: int, end: int, silent: bool) -> bool:  # noqa: FBT001  # as the parser calls it
    """Parse a table whose headings begin with a bar, and keep the cells of a row that stand below no heading."""
    place = state.bMarks[begin] + state.tShift[begin]
    if state.src[place : place + 1] != "|":
        return False
    first = len(state.tokens)
    if not table(state, begin, end, silent):
        return False
    columns, kept = 0, state.tokens[:first]
    for token in state.tokens[first:]:
        if token.type == "th_open":
            columns += 1
        elif token.type == "tr_close" and (row := _row_before(kept)) > begin:
            kept += [cell for text in _cells(state, row)[columns:] for cell in _cell(token.level + 1, text)]
        kept.append(token)
    state.tokens[:] = kept
    return True


def _row_before(tokens: Sequence[Token]) -> int:
    opened = next(token for token in reversed(tokens) if token.type == "tr_open")
    return opened.map[0] if opened.map else 0


def _cells(state: StateBlock, line: int) -> list[str]:
    cells = escapedSplit(getLine(state, line).strip())
    return cells[cells[:1] == [""] : len(cells) - (cells[-1:] == [""])]


def _cell(level: int, text: str) -> tuple[Token, Token, Token]:
    inline = Token("inline", "", 0, level=level + 1, content=text.strip(), children=[])
    return Token("td_open", "td", 1, level=level), inline, Token("td_close", "td", -1, level=level)


def _deep_bracket(state: StateInline, silent: bool) -> bool:  # noqa: FBT001  # as the parser calls it
    """Take a bracket inside of many that are open for text: for each, the parser would read what follows once more."""
    begin = state.pos + (state.src[state.pos] == "!")
    if state.src[begin : begin + 1] != "[" or _open_brackets(state.src)[begin] < _DEEPEST_BRACKET:
        return False
    if not silent:
        state.pending += state.src[state.pos : begin + 1]
    state.pos = begin + 1
    return True


@lru_cache(maxsize=1)
def _open_brackets(text: str) -> tuple[int, ...]:
    """Return how many brackets are open before each character."""
    steps = ((character == "[") - (character == "]") for character in text)
    return tuple(accumulate(steps, lambda opened, step: max(opened + step, 0), initial=0))


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": DEEPEST})
    parser.enable(["table", "strikethrough"]).disable(["lheading", "reference", "text_join"])
    parser.inline.ruler.before("link", "deep_bracket", _deep_bracket)
    parser.block.ruler.at("table", _table_with_bars, {"alt": ["paragraph", "reference"]})
    return parser


_PARSER = _parser()
