"""Long pasted texts: the prompt shows a short name for each, and the message has all of it."""

from itertools import count

from agentapi_mcp.base.text import number_of

_LONGEST_LINES = 10
_LONGEST = 1000  # characters that a prompt shows and edits well


class Pastes:
    """The pasted texts of a conversation by the names that stand for them."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._numbers = count(1)

    def short(self, text: str) -> str:
        """Return the text, or a name for one that is too long for a prompt."""
        lines = text.count("\n") + 1
        if len(text) <= _LONGEST and lines <= _LONGEST_LINES:
            return text
        name = f"[paste {next(self._numbers)}: {number_of(lines, 'line')}, {number_of(len(text), 'character')}]"
        self._texts[name] = text
        return name

    def whole(self, text: str) -> str:
        """Put the pasted texts in the place of their names."""
        parts = [text]
        for name, pasted in self._texts.items():  # what a pasted text itself holds stays as it is
            parts = [
                piece
                for place, part in enumerate(parts)
                for piece in (_around(part, name, pasted) if place % 2 == 0 else [part])
            ]
        return "".join(parts)


def _around(text: str, name: str, pasted: str) -> list[str]:
    """Split at a name: each second piece is the pasted text."""
    pieces = text.split(name)
    return [piece for part in pieces for piece in (part, pasted)][:-1]
