"""The words of a block of Markdown with their styles, and how far they can no longer change."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from markdown_it.token import Token
from rich.cells import split_graphemes
from rich.style import Style

from agentapi_mcp.cli.terminal import visible

Part = tuple[str, Style]
PLAIN = Style.null()
ASIDE = Style(italic=True)
CODE = Style(color="cyan")
WIDE = 2  # cells of an ideograph or an emoji
_ADDED = {
    "strong_open": Style(bold=True),
    "em_open": Style(italic=True),
    "s_open": Style(strike=True),
    "link_open": Style(underline=True),
}
_NO_MARKUP = "\ufffc"  # stands for what is markup no more: code, and characters behind a backslash
# What may still become the beginning of emphasis, of code, of an address or of a line's end.
_MAY_OPEN = re.compile(r"`|\*+(?!\s)|(?<!\w)_+(?!\s)|~~+(?!\s)|<[^<>\x00-\x20]*$|\\$")
_WORD = re.compile(r"\S*")
_MAY_CHANGE = frozenset("`*_~<>\\&[]!():")


class Inline:
    """The inline contents of a block: `parts`, in which a line break is a part of its own."""

    def __init__(self, tokens: Sequence[Token], style: Style) -> None:
        self.parts: list[Part] = []
        self._shadow = ""  # the text, in which only what may still be markup stands for itself
        self._nests: list[tuple[int, int]] = []  # where emphasis, links and code begin and end, the outermost ones
        self._styles = [style]
        self._opened: list[tuple[Token, int, int]] = []  # with the characters and the parts before it
        for token in tokens:
            self._take(token)

    def certain(self, *, ended: bool) -> list[Part]:
        """Return the parts before whatever may still change; `ended`: the last word is whole, since space follows."""
        text, end, before = self._text, self._may_open(), -1
        if not ended:
            end = min(end, self._last_word())
        while end != before:
            before = end
            nest = bisect_left(self._nests, (end,)) - 1  # the last one that begins before it
            if nest >= 0 and end < self._nests[nest][1]:
                end = self._nests[nest][0]
            if end < len(text):
                end = _row_end(text, end)
        return _before(self.parts, len(text[:end].rstrip()))

    @property
    def _text(self) -> str:
        return "".join(text for text, _ in self.parts)

    def _take(self, token: Token) -> None:
        if token.nesting > 0:
            self._styles.append(self._styles[-1] + _ADDED.get(token.type, PLAIN))
            self._opened.append((token, len(self._shadow), len(self.parts)))
        elif token.nesting < 0:
            opened, begin, part = self._opened.pop()
            self._styles.pop()
            if address := _address(opened, "".join(text for text, _ in self.parts[part:])):
                self._add(address, self._styles[-1] + ASIDE)
            self._nest(begin)
        else:
            begin = len(self._shadow)
            self._text_of(token, self._styles[-1])
            if token.type == "code_inline":
                self._nest(begin)

    def _nest(self, begin: int) -> None:
        if not self._opened:
            self._nests.append((begin, len(self._shadow)))

    def _text_of(self, token: Token, style: Style) -> None:
        match token.type:
            case "text":
                self._add(token.content, style, is_markup=True)
            case "code_inline":
                self._add(token.content, style + CODE)
            case "softbreak":
                self._add(" ", style)
            case "hardbreak":
                self._add("\n", style)
            case "image":
                self._add(f"[{token.content}]{_target(token, 'src')}", style + ASIDE)
            case _:
                self._add(token.content, style)

    def _add(self, text: str, style: Style, *, is_markup: bool = False) -> None:
        # An entity such as `&#x202E;` is shown for what it is, as in the source: what it hides is left out.
        shown = visible(text)
        if shown:
            self.parts.append((shown, style))
            self._shadow += shown if is_markup or shown.isspace() else _NO_MARKUP * len(shown)

    def _may_open(self) -> int:
        """Return where something may still begin."""
        found = _MAY_OPEN.search(self._shadow)
        place, opened = found.start() if found else len(self._shadow), list[int]()
        for at in (match.start() for match in re.finditer(r"[\[\]]", self._shadow)):
            if self._shadow[at] == "[":
                opened.append(at - 1 if self._shadow[at - 1 : at] == "!" else at)
            elif opened and self._shadow[at + 1 : at + 2] in {"", "("}:
                place = min(place, opened.pop())
            elif opened:
                opened.pop()
        return min((place, *opened))

    def _last_word(self) -> int:
        """Return where the last word begins, or its last part that may stand in a row of its own."""
        text = self._text
        begin = len(text) - len(re.split(r"\s", text)[-1])
        if self._nests and self._nests[-1][1] == len(text):
            return min(begin, self._nests[-1][0])
        if _MAY_CHANGE.intersection(text[begin:]):
            return begin
        return (begin, *row_ends(text[begin:], begin))[-1]


def _row_end(text: str, place: int) -> int:
    """Return the last place up to this one at which a row may end."""
    begin = place  # looked for from here, since it is near
    while begin and not text[begin - 1].isspace():
        begin -= 1
    word = _WORD.match(text, begin)
    ends = [end for end in row_ends(word[0] if word else "", begin) if end <= place]
    return ends[-1] if ends else begin


def row_ends(word: str, begin: int = 0) -> list[int]:
    """Return the places in a word at which a row may end: before and after wide characters."""
    if word.isascii():
        return []
    pairs = pairwise(split_graphemes(word)[0])
    return [begin + after[0] for before, after in pairs if WIDE in (before[2], after[2])]


def _address(opened: Token, text: str) -> str:
    """Return what stands after a link: where it leads, unless that is its text."""
    if opened.type != "link_open" or opened.markup == "autolink" or opened.attrGet("href") == text:
        return ""
    return _target(opened, "href")


def _target(token: Token, name: str) -> str:
    target = " ".join(str(each) for each in (token.attrGet(name), token.attrGet("title")) if each)
    return f" ({target})" if target else ""


def _before(parts: list[Part], end: int) -> list[Part]:
    kept = list[Part]()
    for text, style in parts:
        if end <= 0:
            break
        kept.append((text[:end], style))
        end -= len(text)
    return kept
