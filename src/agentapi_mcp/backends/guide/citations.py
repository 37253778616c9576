"""Check what a model cites, while its answer streams: a passage or page that does not exist is not shown as one."""

import re
from collections.abc import Callable

_CITED = re.compile(r"(?<![\w\[\]])\[(\d{1,3}(?: ?, ?\d{1,3})*)\]|(?<![\w/.-])docs/[\w./-]+?\.md(?:#[\w-]+)?")
# The end of a piece that may be the beginning of a citation.
_BEGUN = re.compile(r"(?:\[[\d, ]{0,24}|(?<![\w/.-])(?:d|do|doc|docs|docs/[\w./#-]{0,200}))$")


class Citations:
    """Passes an answer on piece by piece, and notes which of the numbered passages it cites.

    Passages are cited by number, `[2]` or `[1, 3]`, and pages by name; what is neither a passage nor `known` is left
    out, and counted in `invented`.
    """

    def __init__(self, passages: int, known: Callable[[str], bool]) -> None:
        self.cited: set[int] = set()
        self.invented = 0
        self._passages = passages
        self._known = known
        self._held = ""
        self._before = ""  # the character before what is held, which tells whether a citation can begin there

    def feed(self, text: str) -> str:
        """Take a piece, and return what can be shown of the answer by now."""
        held = self._held + text
        begun = _BEGUN.search(self._before + held, len(self._before))
        end = len(held) if begun is None else begun.start() - len(self._before)
        return self._checked(held, end)

    def end(self) -> str:
        """Return the rest."""
        return self._checked(self._held, len(self._held))

    def _checked(self, held: str, end: int) -> str:
        shown, self._held = held[:end], held[end:]
        # What was shown is only looked back at: a citation that began there would have been held.
        text, at = self._before + shown, len(self._before)
        checked: list[str] = []
        for match in _CITED.finditer(text, at):
            checked += [text[at : match.start()], self._check(match)]
            at = match.end()
        self._before = shown[-1:] or self._before
        return "".join([*checked, text[at:]])

    def _check(self, match: re.Match[str]) -> str:
        if match[1] is None:
            if self._known(match.group()):
                return match.group()
            self.invented += 1
            return "(a page that does not exist)"
        numbers = [int(number) for number in match[1].split(",")]
        real = [number for number in numbers if 1 <= number <= self._passages]
        self.invented += len(numbers) - len(real)
        self.cited.update(real)
        return f"[{', '.join(map(str, real))}]" if real else ""
