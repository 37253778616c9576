"""Check what a model cites, while its answer streams: a passage or page that does not exist is not shown as one."""

import re
from collections.abc import Callable

# What can stand before a fence in its line: it may be in a list, or quoted.
_INDENT = r"^[ \t>]{0,40}"
_ITEM = r"(?:[-*+]|\d{1,3}[.)])"
# A code span ends with its paragraph, list item or other block at the latest: else its backtick is an ordinary one.
_BLOCK_END = rf"\n[ \t]{{0,40}}(?:\n|[>#|]|{_ITEM}[ ]|`{{3}}|~{{3}})"
_IN_SPAN = rf"(?:(?!{_BLOCK_END})[\s\S])"
_NUMBERS = r"\d{1,3}(?:\s{0,2}(?:,|;|&|-|\u2013|and)\s{0,2}\d{1,3}){0,11}"
_WORD = r"(?:(?i:passages?|sources?|sections?)\s{1,2})?"
# What is decided once something follows it: a fence, a code span, a citation by number, and what may name a page.
_TOKEN = re.compile(
    rf"{_INDENT}(?:{_ITEM}[ \t]{{1,4}})?(?P<fence>`{{3,20}}(?=[^`\n]*(?:\n|\Z))|~{{3,20}})[^\n]{{0,200}}(?:\n|\Z)"
    rf"|(?P<span>(?<!`)(?P<ticks>`{{1,20}})(?!`){_IN_SPAN}{{1,2000}}?(?<!`)(?P=ticks)(?!`))"
    rf"|(?P<double>\[)?\\?\[\^?\s?{_WORD}(?P<numbers>{_NUMBERS})\s?\\?\](?(double)\])"
    r"|\u3010(?P<number>\d{1,3})(?:[:\u2020][^\u3011\n]{0,80})?\u3011"
    r"|(?<![\w/.-])(?P<page>docs/[\w./#-]{1,250})",
    re.MULTILINE,
)
# The end of a piece that may be the beginning of one.
_BEGUN = re.compile(
    rf"(?:{_INDENT}(?:{_ITEM}?[ \t]{{0,4}}|\d{{1,3}})"
    rf"|{_INDENT}(?:{_ITEM}[ \t]{{1,4}})?(?:[`~]{{1,2}}|`{{3,20}}[^`\n]{{0,200}}|~{{3,20}}[^\n]{{0,200}})"
    rf"|(?<!`)`{{1,20}}(?:(?!`){_IN_SPAN}{{0,2050}})?"
    r"|\[?\\?\[\^?[\s\w,;&\u2013-]{0,120}\\?\]?|\\"
    r"|\u3010[^\u3011\n]{0,90}"
    r"|(?<![\w/.-])(?:d|do|doc|docs|docs/[\w./#-]{0,250}))\Z",
    re.MULTILINE,
)
_LONGEST_BEGUN = 2_400
_FENCE_END = re.compile(rf"{_INDENT}(?P<fence>`{{3,20}}|~{{3,20}})[ \t]{{0,40}}(?:\n|\Z)", re.MULTILINE)
_FENCE_END_BEGUN = re.compile(rf"{_INDENT}(?:`{{0,20}}|~{{0,20}})[ \t]{{0,40}}\Z", re.MULTILINE)
_PAGE = re.compile(r"(?<![\w/.-])docs/[\w./-]+?\.md(?:#[\w-]+)?")
_NUMBER = re.compile(r"(\d+)(?:\s*[-\u2013]\s*(\d+))?")


class Citations:
    """Passes an answer on piece by piece, and notes which of the numbered passages it cites.

    Passages are cited by number, `[2]` or `[1, 3]` or in one of the other ways that models have, and pages by name;
    what is neither a passage nor `known` is left out, and counted in `invented`. Numbers in code are no citations.
    """

    def __init__(self, passages: int, known: Callable[[str], bool]) -> None:
        self.cited: set[int] = set()
        self.invented = 0
        self._passages = passages
        self._known = known
        self._held = ""
        self._before = ""  # the character before what is held, which tells whether something can begin there
        self._fence = ""  # that of the code block that is open

    def feed(self, text: str) -> str:
        """Take a piece, and return what can be shown of the answer by now."""
        self._held += text
        return self._checked(is_last=False)

    def end(self) -> str:
        """Return the rest."""
        return self._checked(is_last=True)

    def _checked(self, *, is_last: bool) -> str:
        # What was shown is only looked back at: a token that began there would have been held.
        text, at = self._before + self._held, len(self._before)
        checked: list[str] = []
        begun = self._begun(text, at, is_last=is_last)
        while (token := (_FENCE_END if self._fence else _TOKEN).search(text, at)) is not None:
            is_decided = is_last or token.end() < len(text)
            if token.start() > begun or not is_decided:
                begun = min(begun, token.start())
                break
            checked += [text[at : token.start()], self._check(token)]
            at = token.end()
            if token["fence"] or at > begun:
                begun = self._begun(text, at, is_last=is_last)
        checked.append(text[at:begun])
        self._before, self._held = text[:begun][-1:], text[begun:]
        return "".join(checked)

    def _begun(self, text: str, at: int, *, is_last: bool) -> int:
        """Return from where on the text waits for what comes next."""
        if is_last:
            return len(text)
        pattern = _FENCE_END_BEGUN if self._fence else _BEGUN
        begun = pattern.search(text, max(at, len(text) - _LONGEST_BEGUN))
        return len(text) if begun is None else begun.start()

    def _check(self, token: re.Match[str]) -> str:
        found = token.groupdict()
        if found["fence"]:
            self._mark(found["fence"])
            return token.group()
        if found["span"] or found["page"]:
            return _PAGE.sub(self._page, token.group())
        return self._numbers(found["numbers"] or found["number"])

    def _mark(self, fence: str) -> None:
        if not self._fence:
            self._fence = fence
        elif fence.startswith(self._fence):
            self._fence = ""

    def _page(self, match: re.Match[str]) -> str:
        if self._known(match.group()):
            return match.group()
        self.invented += 1
        return "(a page that does not exist)"

    def _numbers(self, written: str) -> str:
        real: list[int] = []
        for first, last in _NUMBER.findall(written):
            ends = [int(first), *([int(last)] if last else [])]
            # Of a range, only its ends are counted where they do not exist: "1-99" is one more, not 93.
            self.invented += sum(not 1 <= each <= self._passages for each in ends)
            real += range(max(ends[0], 1), min(ends[-1], self._passages) + 1)
        self.cited.update(real)
        return f"[{', '.join(map(str, real))}]" if real else ""
