"""Text from outside, made fit to be shown."""

from collections.abc import Sequence

_MOST_LISTED = 20


def printable(text: str) -> str:
    """Replace every character that a terminal cannot print with a space."""
    return "".join(character if character.isprintable() else " " for character in text)


def listed(names: Sequence[str]) -> str:
    """List names in a sentence, at most twenty of them."""
    more = ", …" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more or "none"
