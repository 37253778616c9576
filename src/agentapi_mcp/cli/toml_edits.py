"""Edit one table of a TOML file and leave all else as it is, comments and formatting included.

Every edit is verified: tomllib, a second parser, must read the result as the old document with only that table changed.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import wraps
from itertools import pairwise
from typing import Concatenate, ParamSpec, cast

from tomlkit import TOMLDocument, inline_table, item, parse, table
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item, SingleKey

from agentapi_mcp.base.json_values import as_list, as_object, is_list, is_object

TablePath = tuple[str, str]
_Tables = MutableMapping[str, object]
_Words = ParamSpec("_Words")
_BOM = "\ufeff"


class UnsafeEditError(ValueError):
    """No known edit changes this table alone."""


def find(text: str, path: TablePath) -> dict[str, object] | None:
    """Return the table at a path; what is there and is no table is an empty one."""
    return _find(load(text), path)


def tables(text: str, key: str) -> list[str]:
    """Return the names below a key of the document."""
    return list(as_object(load(text).get(key)))


def _keeping_mark(edit: Callable[Concatenate[str, _Words], str]) -> Callable[Concatenate[str, _Words], str]:
    """Keep the byte order mark of a file, which some editors of Windows write, away from the parsers."""

    @wraps(edit)
    def edited(text: str, *words: _Words.args, **named: _Words.kwargs) -> str:
        mark = _BOM if text.startswith(_BOM) else ""
        return mark + edit(text.removeprefix(_BOM), *words, **named)

    return edited


@_keeping_mark
def put(text: str, path: TablePath, entry: Mapping[str, object]) -> str:
    """Return the text with a table changed in place, or appended.

    Raises:
        UnsafeEditError: no edit changes this table alone.
    """
    before = load(text)
    present = _find(before, path)
    if present == entry:
        return text
    expected = _document_with(before, path, entry)
    if present is not None:
        return _first_safe(
            expected, path, lambda: _update(text, path, entry), lambda: put(remove(text, path), path, entry)
        )
    return _first_safe(expected, path, lambda: _append(text, path, entry), lambda: _append_inline(text, path, entry))


@_keeping_mark
def add(text: str, path: TablePath, block: str) -> str:
    """Return the text with a table that is written already, comments and all, after an empty line at its end.

    Raises:
        UnsafeEditError: there is such a table, or it cannot be added so that nothing else changes.
    """
    before, entry = load(text), _find(load(block), path)
    if entry is None:
        raise UnsafeEditError(f"the block is not {'.'.join(path)}")
    expected = _document_with(before, path, entry)
    return _first_safe(expected, path, lambda: _after(text, block))


@_keeping_mark
def put_in_list(
    text: str,
    path: TablePath,
    key: str,
    changes: Mapping[int, Mapping[str, object]],
    more: Sequence[Mapping[str, object]],
) -> str:
    """Return the text with values put into tables of a list below a table, by their places, and more tables appended.

    Raises:
        UnsafeEditError: no edit changes these alone.
    """
    before = load(text)
    entry = _find(before, path) or {}
    listed = [{**as_object(each), **changes.get(at, {})} for at, each in enumerate(as_list(entry.get(key)))]
    expected = _document_with(before, path, {**entry, key: [*listed, *map(dict, more)]})
    return _first_safe(expected, path, lambda: _change_list(text, path, key, changes, more))


@_keeping_mark
def remove(text: str, path: TablePath) -> str:
    """Return the text without a table and the empty line that `put` adds before it.

    Raises:
        UnsafeEditError: no edit removes this table alone.
    """
    before = load(text)
    if _find(before, path) is None:
        return text
    expected = _document_with(before, path, None)
    return _first_safe(expected, path, lambda: _cut(text, path), lambda: _delete(text, path))


def render(path: TablePath, entry: Mapping[str, object]) -> str:
    """Render a table as it is appended to a file."""
    return f"[{'.'.join(path)}]\n{_body(entry)}"


def written(value: object) -> str:
    """Write a value as it stands after its key."""
    return _value(value).as_string()


def _body(entry: Mapping[str, object]) -> str:
    body = table()
    for key, value in entry.items():
        body.add(key, _value(value))
    return body.as_string()


def load(text: str) -> dict[str, object]:
    """Return the whole document."""
    return tomllib.loads(text.removeprefix(_BOM), parse_float=_float)


def _float(text: str) -> float | str:
    return text if "nan" in text else float(text)  # nan equals nothing, so that no edit would seem to keep it


def _find(document: Mapping[str, object], path: TablePath) -> dict[str, object] | None:
    found = as_object(document.get(path[0])).get(path[1])
    return None if found is None else as_object(found)


def _document_with(
    document: dict[str, object], path: TablePath, entry: Mapping[str, object] | None
) -> dict[str, object]:
    parent = document.get(path[0], {})
    if not is_object(parent):
        raise UnsafeEditError(f"{path[0]} is no table")
    remaining = {name: value for name, value in parent.items() if name != path[1]}
    return document | {path[0]: remaining if entry is None else {**remaining, path[1]: entry}}


def _first_safe(expected: Mapping[str, object], path: TablePath, *edits: Callable[[], str]) -> str:
    """Return the result of the first edit that parses to the expected document."""
    for edit in edits:
        try:
            text = edit()
            found = load(text)
        except (TOMLKitError, LookupError, ValueError, TypeError):
            continue  # this edit does not fit the table's notation
        if found | {path[0]: found.get(path[0], {})} == expected:
            return text
    raise UnsafeEditError(f"{'.'.join(path)} cannot be edited alone")


# --- edits, each for one notation of a table; `_first_safe` verifies them


def _append(text: str, path: TablePath, entry: Mapping[str, object]) -> str:
    """Add the table at the end of the file, after an empty line."""
    return _after(text, render(path, entry))


def _after(text: str, block: str) -> str:
    rest = text if text.endswith("\n") or not text else text + "\n"
    return _match_newlines(text, rest + ("\n" if rest else "") + block)


def _append_inline(text: str, path: TablePath, entry: Mapping[str, object]) -> str:
    """Add the table to an inline parent table."""
    document = _parse(text)
    _tables(document, path[0])[path[1]] = _value(dict(entry))
    return document.as_string()


def _update(text: str, path: TablePath, entry: Mapping[str, object]) -> str:
    """Change the differing values in place."""
    document = _parse(text)
    _merge(_tables(_tables(document, path[0]), path[1]), entry)
    return _match_newlines(text, document.as_string())


def _merge(present: _Tables, entry: Mapping[str, object]) -> None:
    for key in [key for key in present if key not in entry]:
        del present[key]
    for key, value in entry.items():
        old = present.get(key)
        if is_object(value) and isinstance(old, MutableMapping):
            _merge(_tables(present, key), value)
        elif old != value:
            present[key] = _value(value)


def _change_list(
    text: str,
    path: TablePath,
    key: str,
    changes: Mapping[int, Mapping[str, object]],
    more: Sequence[Mapping[str, object]],
) -> str:
    """Change an array of tables with headers by its lines, and append to it: tomlkit garbles inline dates."""
    blocks, at, last = _blocks(text if text.endswith("\n") else text + "\n"), -1, None
    for index, block in enumerate(blocks):
        found = _find(load(block[0]), path) if block[0].lstrip().startswith("[") else None
        if found is None:
            continue
        last = index
        if is_list(found.get(key)):
            at += 1
            blocks[index] = _with_values(block, changes.get(at, {}))
    if last is None:
        raise UnsafeEditError(f"{'.'.join(path)} has no header")
    header = ".".join(SingleKey(part).as_string() for part in (*path, key))
    end = _end_of(blocks[last])
    blocks[last][end:end] = [f"\n[[{header}]]\n{_body(each)}" for each in more]
    return _match_newlines(text, "".join(line for block in blocks for line in block))


def _with_values(block: list[str], values: Mapping[str, object]) -> list[str]:
    """Return one table with values put into it, each on its line; a comment after an old one stays."""
    lines, end = list(block), _end_of(block)
    for name, value in values.items():
        at = next((at for at, line in enumerate(lines[:end]) if re.match(rf"\s*{re.escape(name)}\s*=", line)), None)
        comment = _comment_of(lines[at]) if at is not None else ""
        new = f"{name} = {_value(value).as_string()}{comment}\n"
        if at is not None:
            lines[at] = new
        else:
            lines.insert(end, new)
            end += 1
    return lines


def _comment_of(line: str) -> str:
    """Return the comment at the end of a line, with the space before it; a # in a string begins none."""
    line = line.rstrip("\r\n")
    starts = (found.start() for found in re.finditer(r"[ \t]*#", line))
    return next((line[start:] for start in starts if _is_toml(line[:start])), "")


def _delete(text: str, path: TablePath) -> str:
    """Delete an inline or dotted table."""
    document = _parse(text)
    del _tables(document, path[0])[path[1]]
    return document.as_string()


def _cut(text: str, path: TablePath) -> str:
    """Delete a table with headers; comments before the next header stay."""
    remaining: list[str] = []
    for block in _blocks(text):
        if not block[0].lstrip().startswith("[") or _find(load(block[0]), path) is None:
            remaining += block
            continue
        if remaining and not remaining[-1].strip():
            remaining.pop()
        remaining += block[_end_of(block) :]
    return "".join(remaining)


def _end_of(block: Sequence[str]) -> int:
    """Return how many lines of a block are its table: comments before the next header are not."""
    return max(index for index, line in enumerate(block, 1) if line.strip() and not line.lstrip().startswith("#"))


def _blocks(text: str) -> list[list[str]]:
    """Split a file at the headers of its tables."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    # Inside an array or a multi-line string, a line may begin with a bracket and be no header; there, the text
    # before it does not parse.
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
    """Parse a file with tomlkit; refuse one that it would not write back unchanged, as it reorders some tables."""
    document = parse(text)
    if document.as_string() != text:
        raise UnsafeEditError("tomlkit would write the file in another order")
    return document


def _tables(parent: TOMLDocument | _Tables, key: str) -> _Tables:
    return cast("_Tables", parent[key])


def _value(value: object) -> Item:
    """Convert a value to a TOML item; a nested table becomes inline, which needs no header."""
    if not is_object(value):
        return item(value)
    inline = inline_table()
    for key, each in value.items():
        inline.append(key, _value(each))
    return inline


def _match_newlines(text: str, edited: str) -> str:
    """Use CRLF line ends if the text uses nothing else."""
    if "\r\n" not in text or re.search(r"(?<!\r)\n", text):
        return edited
    return re.sub(r"(?<!\r)\n", "\r\n", edited)
