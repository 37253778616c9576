"""Sanitize text from outside for storage and display."""

import json
import re
from collections.abc import Sequence

from agentapi_mcp.base.json_values import is_list, is_object

_MOST_LISTED = 20
# No space, quote, bracket or separator, so that it cannot pass for another part of the sentence that names it.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._/:@+,~#-]*")


def printable(text: str) -> str:
    """Replace every character that a terminal cannot print with a space."""
    if text.isprintable():  # as nearly all are, and many are looked at for each turn
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def listed(names: Sequence[str]) -> str:
    """Join names for a sentence, at most twenty of them."""
    more = ", …" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more or "none"


def number_of(number: int, what: str, plural: str | None = None) -> str:
    """Write a number with what it counts, in the singular or the plural: `1 turn`, `2,000 turns`."""
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"


def storable(text: str) -> str:
    """Remove NUL and lone surrogates, and join surrogate pairs."""
    # Postgres stores neither in text or jsonb.
    text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        # A pair of surrogates is one character in UTF-16; a lone one is replaced.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def storable_value(value: object) -> object:
    """Apply `storable` to all strings of a JSON value."""
    if isinstance(value, str):
        return storable(value)
    if is_list(value):
        return [storable_value(each) for each in value]
    if is_object(value):
        return {storable(name): storable_value(each) for name, each in value.items()}
    return value


def one_line(text: str, most: int = 200) -> str:
    """Format a name from outside as one line of printable characters, truncated to `most`."""
    # Cut first: a name from outside may be megabytes long.
    line = " ".join(printable(text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def quoted(name: str, most: int = 200) -> str:
    """Format a name from outside as `one_line` does, in quotes unless it is as plain as most names of models are."""
    line = one_line(name, most)
    return line if _PLAIN_NAME.fullmatch(line) else json.dumps(line, ensure_ascii=False)
