"""Edit one table of a TOML file and leave all else as it is, comments and formatting included.

Every edit is checked: the result is parsed again, by another parser, and must differ in that table alone.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, MutableMapping
from itertools import pairwise
from typing import cast

from tomlkit import TOMLDocument, inline_table, item, parse, table
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item

from agentapi_mcp.base.json_values import as_object, is_object

Path = tuple[str, str]
_Tables = MutableMapping[str, object]


class UnsafeEditError(ValueError):
    """The file writes its tables in a way in which this one cannot be edited alone."""


def find(text: str, path: Path) -> dict[str, object] | None:
    """Return the table at this path."""
    return _find(tomllib.loads(text), path)


def put(text: str, path: Path, entry: Mapping[str, object]) -> str:
    """Return the text with this table: changed in place, or added at the end.

    Raises:
        UnsafeEditError: no edit changes this table alone.
    """
    before = tomllib.loads(text)
    present = _find(before, path)
    if present == entry:
        return text
    wanted = _document_with(before, path, entry)
    if present is not None:
        return _first_safe(wanted, path, lambda: _update(text, path, entry), lambda: put(take(text, path), path, entry))
    return _first_safe(wanted, path, lambda: _append(text, path, entry), lambda: _append_inline(text, path, entry))


def take(text: str, path: Path) -> str:
    """Return the text without this table, nor the empty line that `put` sets before it.

    Raises:
        UnsafeEditError: no edit removes this table alone.
    """
    before = tomllib.loads(text)
    if _find(before, path) is None:
        return text
    wanted = _document_with(before, path, None)
    return _first_safe(wanted, path, lambda: _cut(text, path), lambda: _delete(text, path))


def render(path: Path, entry: Mapping[str, object]) -> str:
    """Return the table as it is written at the end of a file."""
    body = table()
    for key, value in entry.items():
        body.add(key, _value(value))
    return f"[{'.'.join(path)}]\n{body.as_string()}"


def _find(document: Mapping[str, object], path: Path) -> dict[str, object] | None:
    found = as_object(document.get(path[0])).get(path[1])
    return found if is_object(found) else None


def _document_with(document: dict[str, object], path: Path, entry: Mapping[str, object] | None) -> dict[str, object]:
    parent = document.get(path[0], {})
    if not is_object(parent):
        raise UnsafeEditError(f"{path[0]} is no table")
    kept = {name: value for name, value in parent.items() if name != path[1]}
    return document | {path[0]: kept if entry is None else {**kept, path[1]: entry}}


def _first_safe(wanted: Mapping[str, object], path: Path, *edits: Callable[[], str]) -> str:
    """Return what the first edit makes that says what is wanted."""
    for edit in edits:
        try:
            text = edit()
            found = tomllib.loads(text)
        except (TOMLKitError, LookupError, ValueError, TypeError):
            continue  # the table is written in another way than this edit knows
        if found | {path[0]: found.get(path[0], {})} == wanted:
            return text
    raise UnsafeEditError(f"{'.'.join(path)} cannot be edited alone")


# --- edits, each for one way to write a table; unchecked


def _append(text: str, path: Path, entry: Mapping[str, object]) -> str:
    """Add the table at the end of the file, after an empty line."""
    rest = text if text.endswith("\n") or not text else text + "\n"
    return _with_newlines_of(text, rest + ("\n" if rest else "") + render(path, entry))


def _append_inline(text: str, path: Path, entry: Mapping[str, object]) -> str:
    """Add the table to the inline table that holds its like."""
    document = _parse(text)
    _tables(document, path[0])[path[1]] = _value(dict(entry))
    return document.as_string()


def _update(text: str, path: Path, entry: Mapping[str, object]) -> str:
    """Change what differs where it stands."""
    document = _parse(text)
    _merge(_tables(_tables(document, path[0]), path[1]), entry)
    return _with_newlines_of(text, document.as_string())


def _merge(present: _Tables, entry: Mapping[str, object]) -> None:
    for key in [key for key in present if key not in entry]:
        del present[key]
    for key, value in entry.items():
        old = present.get(key)
        if is_object(value) and isinstance(old, MutableMapping):
            _merge(_tables(present, key), value)
        elif old != value:
            present[key] = _value(value)


def _delete(text: str, path: Path) -> str:
    """Delete an inline or dotted table."""
    document = _parse(text)
    del _tables(document, path[0])[path[1]]
    return document.as_string()


def _cut(text: str, path: Path) -> str:
    """Delete a table with headers, and keep the comments between it and the next one."""
    kept: list[str] = []
    for block in _blocks(text):
        if not block[0].lstrip().startswith("[") or _find(tomllib.loads(block[0]), path) is None:
            kept += block
            continue
        if kept and not kept[-1].strip():
            kept.pop()
        end = max(index for index, line in enumerate(block, 1) if line.strip() and not line.lstrip().startswith("#"))
        kept += block[end:]
    return "".join(kept)


def _blocks(text: str) -> list[list[str]]:
    """Divide a file at the headers of its tables."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    # A line that begins with a bracket is no header within a list or a text, and until there nothing can be parsed.
    headers = [at for at, line in enumerate(lines) if line.lstrip().startswith("[") and _is_toml("".join(lines[:at]))]
    starts = [*({0} - set(headers)), *headers]
    return [lines[start:end] for start, end in pairwise([*starts, len(lines)])]


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _parse(text: str) -> TOMLDocument:
    """Parse a file so that it can be written again: tomlkit moves some tables, as one with a list in between."""
    document = parse(text)
    if document.as_string() != text:
        raise UnsafeEditError("tomlkit would write the file in another order")
    return document


def _tables(parent: TOMLDocument | _Tables, key: str) -> _Tables:
    return cast("_Tables", parent[key])


def _value(value: object) -> Item:
    """Make an item of a value; a table within is inline, so that it needs no header."""
    if not is_object(value):
        return item(value)
    made = inline_table()
    for key, each in value.items():
        made.append(key, _value(each))
    return made


def _with_newlines_of(text: str, made: str) -> str:
    """Write the ends of lines as the text does, where it has one kind alone."""
    if "\r\n" not in text or re.search(r"(?<!\r)\n", text):
        return made
    return re.sub(r"(?<!\r)\n", "\r\n", made)
