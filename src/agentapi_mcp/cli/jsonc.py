"""Edit one value of a JSON document with comments and trailing commas, and leave all other text as it is."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_SPACE = re.compile(r"[ \t\r\n]*")
_REST_OF_LINE = re.compile(r"[ \t\r]*(?:\n|$)")
_GAP = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"-?[0-9][0-9.eE+-]*|true|false|null")
_MAX_DEPTH = 200  # below Python's recursion limit: the parser is recursive


class JsoncError(ValueError):
    """The text is not valid; `line` and `column` count from 1."""

    def __init__(self, text: str, position: int, expected: str) -> None:
        self.line = text.count("\n", 0, position) + 1
        self.column = position - (text.rfind("\n", 0, position) + 1) + 1
        super().__init__(f"line {self.line}, column {self.column}: {expected} is expected")


@dataclass(slots=True)
class Node:
    """A value and its position in the text; an object has members too."""

    value: object
    start: int
    end: int
    members: "list[Member]" = field(default_factory=list["Member"])


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object: the position of its key, its value, and the position of the comma after it, if any."""

    key: str
    start: int
    node: Node
    comma: int | None


def parse(text: str) -> Node:
    """Parse a document.

    Raises:
        JsoncError: the text is not valid.
    """
    start = _skip_gap(text, 1 if text.startswith("\ufeff") else 0)
    node = _parse_value(text, start, 0)
    end = _skip_gap(text, node.end)
    if end != len(text):
        raise JsoncError(text, end, "the end")
    return node


def put(text: str, path: Sequence[str], value: object) -> str:
    """Return the text with a value at a path of keys; all else, comments and spaces included, is unchanged.

    Raises:
        JsoncError: the text is not valid, or a value on the path is not an object.
    """
    if not text.strip("\ufeff \t\r\n"):
        text = f"{text}{{}}\n"
    node, depth = parse(text), 0
    for depth, key in enumerate(path):  # noqa: B007  # the loop's last index is used after it
        if not isinstance(node.value, dict):
            raise JsoncError(text, node.start, "an object")
        found = _find(node, key)
        if found is None:
            break
        node = found.node
    else:
        if node.value == value:
            return text
        dumped = _dump(value, _indent_at(text, _line_start(text, node.start)), _unit(text), _newline(text))
        return text[: node.start] + dumped + text[node.end :]
    for key in reversed(path[depth + 1 :]):
        value = {key: value}
    return _insert(text, node, path[depth], value)


def remove(text: str, path: Sequence[str]) -> str:
    """Return the text without the member at a path, and equal ones; an object that becomes empty stays.

    Raises:
        JsoncError: the text is not valid.
    """
    # With one of equal keys left, parsers would use that one.
    while (parent := _parent(parse(text), path)) is not None and _find(parent, path[-1]) is not None:
        text = _remove_first(text, parent, path[-1])
    return text


def _parent(node: Node, path: Sequence[str]) -> Node | None:
    for key in path[:-1]:
        found = _find(node, key)
        if found is None:
            return None
        node = found.node
    return node


def _remove_first(text: str, parent: Node, key: str) -> str:
    index = next(index for index, member in enumerate(parent.members) if member.key == key)
    member = parent.members[index]
    rest = text[member.node.end if member.comma is None else member.comma + 1 :]
    before = _space_start(text, member.start)
    if "\n" in text[before : member.start] and not _REST_OF_LINE.match(rest):
        before = member.start  # a line comment before it would swallow the rest of this line
    text = text[:before] + rest
    if member.comma is None:
        comma = parent.members[index - 1].comma if index else None
        if comma is not None:
            text = text[:comma] + text[comma + 1 :]
    if len(parent.members) == 1 and (space := _SPACE.match(text, parent.start + 1)) and text[space.end()] == "}":
        text = text[: parent.start + 1] + text[space.end() :]
    return text


def _find(node: Node, key: str) -> Member | None:
    return next(
        (member for member in reversed(node.members) if member.key == key), None
    )  # of equal keys, parsers use the last


def _insert(text: str, parent: Node, key: str, value: object) -> str:
    newline, unit = _newline(text), _unit(text)
    outer = _indent_at(text, _line_start(text, parent.start))
    inner = _indent_at(text, _line_start(text, parent.members[-1].start)) if parent.members else outer + unit
    if parent.members and not text[_line_start(text, parent.members[-1].start) : parent.members[-1].start].isspace():
        inner = outer + unit  # the first member is on the line of the brace, so its indent is the brace's
    close = parent.end - 1
    end = _space_start(text, close)
    inserted, tail = f"{newline}{inner}{json.dumps(key)}: {_dump(value, inner, unit, newline)}", text[end:close]
    if "\n" not in tail:
        if parent.members:  # the object is written on one line: stay on it
            inserted = f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        else:
            tail = f"{newline}{outer}"
    comma = bool(parent.members) and parent.members[-1].comma is None
    position = parent.members[-1].node.end if comma else end
    if parent.members and not comma:
        inserted += ","
    return text[:position] + ("," if comma else "") + text[position:end] + inserted + tail + text[close:]


def _space_start(text: str, position: int) -> int:
    """Return the start of the white space that ends at a position."""
    return len(text[:position].rstrip(" \t\r\n"))


def _line_start(text: str, position: int) -> int:
    return text.rfind("\n", 0, position) + 1


def _indent_at(text: str, start: int) -> str:
    found = re.compile(r"[ \t]*").match(text, start)
    return found[0] if found else ""


def _unit(text: str) -> str:
    found = re.search(r"\n([ \t]+)\S", text)
    return found[1] if found else "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _dump(value: object, indent: str, unit: str, newline: str) -> str:
    lines = json.dumps(value, indent=unit, ensure_ascii=False).split("\n")
    return f"{newline}{indent}".join(lines)


def _skip_gap(text: str, position: int) -> int:
    found = _GAP.match(text, position)
    end = found.end() if found else position
    if text.startswith("/*", end):
        raise JsoncError(text, len(text), "*/")
    return end


def _parse_value(text: str, position: int, depth: int) -> Node:
    if depth > _MAX_DEPTH:
        raise JsoncError(text, position, f"at most {_MAX_DEPTH} levels")
    match text[position : position + 1]:
        case "{":
            return _parse_object(text, position, depth)
        case "[":
            return _parse_array(text, position, depth)
        case '"':
            value, end = _parse_string(text, position)
            return Node(value, position, end)
        case _:
            found = _SCALAR.match(text, position)
            if found is None:
                raise JsoncError(text, position, "a value")
            try:
                return Node(json.loads(found[0]), position, found.end())
            except ValueError:
                raise JsoncError(text, position, "a number") from None


def _parse_object(text: str, start: int, depth: int) -> Node:
    members: list[Member] = []
    position, more = _skip_gap(text, start + 1), True
    while text[position : position + 1] != "}":
        if not more:
            raise JsoncError(text, position, "',' or '}'")
        if text[position : position + 1] != '"':
            raise JsoncError(text, position, "a key in double quotes or '}'")
        key, end = _parse_string(text, position)
        colon = _skip_gap(text, end)
        if text[colon : colon + 1] != ":":
            raise JsoncError(text, colon, "':'")
        node = _parse_value(text, _skip_gap(text, colon + 1), depth + 1)
        after = _skip_gap(text, node.end)
        more = text[after : after + 1] == ","
        members.append(Member(key, position, node, after if more else None))
        position = _skip_gap(text, after + 1) if more else after
    return Node({member.key: member.node.value for member in members}, start, position + 1, members)


def _parse_array(text: str, start: int, depth: int) -> Node:
    values: list[object] = []
    position, more = _skip_gap(text, start + 1), True
    while text[position : position + 1] != "]":
        if not more:
            raise JsoncError(text, position, "',' or ']'")
        node = _parse_value(text, position, depth + 1)
        values.append(node.value)
        after = _skip_gap(text, node.end)
        more = text[after : after + 1] == ","
        position = _skip_gap(text, after + 1) if more else after
    return Node(values, start, position + 1)


def _parse_string(text: str, position: int) -> tuple[str, int]:
    found = _STRING.match(text, position)
    if found is None:
        raise JsoncError(text, position, "the end of a text")
    try:
        return str(json.loads(found[0])), found.end()
    except ValueError:
        raise JsoncError(text, position, "a text") from None
