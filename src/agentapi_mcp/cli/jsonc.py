"""JSON with comments and trailing commas, as editors keep their settings, changed at one place and nowhere else."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_SPACE = re.compile(r"[ \t\r\n]*")
_REST_OF_LINE = re.compile(r"[ \t\r]*(?:\n|$)")
_GAP = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"-?[0-9][0-9.eE+-]*|true|false|null")
_DEEPEST = 200


class JsoncError(ValueError):
    """The text is no such document; `line` and `column` count from 1."""

    def __init__(self, text: str, place: int, wanted: str) -> None:
        self.line = text.count("\n", 0, place) + 1
        self.column = place - (text.rfind("\n", 0, place) + 1) + 1
        super().__init__(f"line {self.line}, column {self.column}: {wanted} is expected")


@dataclass(slots=True)
class Node:
    """A value with its place; an object has members, each with the place of its key and of the comma behind it."""

    value: object
    start: int
    end: int
    members: "list[Member]" = field(default_factory=list["Member"])


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object; `comma` is where its comma stands, None where there is none."""

    key: str
    start: int
    node: Node
    comma: int | None


def parse(text: str) -> Node:
    """Read a document.

    Raises:
        JsoncError: it is none; where, and what is missing.
    """
    start = _gap(text, 1 if text.startswith("\ufeff") else 0)
    node = _value(text, start, 0)
    end = _gap(text, node.end)
    if end != len(text):
        raise JsoncError(text, end, "the end")
    return node


def put(text: str, path: Sequence[str], value: object) -> str:
    """Return the text with a value at a path of keys; all else is as it was, comments and spaces too.

    Raises:
        JsoncError: the text is no document, or something on the path is no object.
    """
    if not text.strip("\ufeff \t\r\n"):
        text = f"{text}{{}}\n"
    node, depth = parse(text), 0
    for depth, key in enumerate(path):  # noqa: B007  # where it stopped matters
        if not isinstance(node.value, dict):
            raise JsoncError(text, node.start, "an object")
        found = _find(node, key)
        if found is None:
            break
        node = found.node
    else:
        if node.value == value:
            return text
        shown = _shown(value, _indent_at(text, _line_start(text, node.start)), _unit(text), _newline(text))
        return text[: node.start] + shown + text[node.end :]
    for key in reversed(path[depth + 1 :]):
        value = {key: value}
    return _insert(text, node, path[depth], value)


def take(text: str, path: Sequence[str]) -> str:
    """Return the text without the value at a path; what held it alone stays, empty.

    Raises:
        JsoncError: the text is no document.
    """
    parent = parse(text)
    for key in path[:-1]:
        found = _find(parent, key)
        if found is None:
            return text
        parent = found.node
    keys = [member.key for member in parent.members]
    if path[-1] not in keys:
        return text
    index = keys.index(path[-1])
    member = parent.members[index]
    rest = text[member.node.end if member.comma is None else member.comma + 1 :]
    before = _trimmed(text, member.start)
    if "\n" in text[before : member.start] and not _REST_OF_LINE.match(rest):
        before = member.start  # a comment may stand before it, which ends with its line
    text = text[:before] + rest
    if member.comma is None:
        comma = parent.members[index - 1].comma if index else None
        if comma is not None:
            text = text[:comma] + text[comma + 1 :]
    if len(keys) == 1 and (space := _SPACE.match(text, parent.start + 1)) and text[space.end()] == "}":
        text = text[: parent.start + 1] + text[space.end() :]
    return text


def _find(node: Node, key: str) -> Member | None:
    return next((member for member in reversed(node.members) if member.key == key), None)  # the last one counts


def _insert(text: str, parent: Node, key: str, value: object) -> str:
    newline, unit = _newline(text), _unit(text)
    outer = _indent_at(text, _line_start(text, parent.start))
    inner = _indent_at(text, _line_start(text, parent.members[-1].start)) if parent.members else outer + unit
    if parent.members and not text[_line_start(text, parent.members[-1].start) : parent.members[-1].start].isspace():
        inner = outer + unit  # the members stand on the line of the brace
    close = parent.end - 1
    end = _trimmed(text, close)
    said, tail = f"{newline}{inner}{json.dumps(key)}: {_shown(value, inner, unit, newline)}", text[end:close]
    if "\n" not in tail:
        if parent.members:  # all on one line
            said = f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        else:
            tail = f"{newline}{outer}"
    comma = bool(parent.members) and parent.members[-1].comma is None
    place = parent.members[-1].node.end if comma else end
    if parent.members and not comma:
        said += ","
    return text[:place] + ("," if comma else "") + text[place:end] + said + tail + text[close:]


def _trimmed(text: str, place: int) -> int:
    """Return where the white space before a place begins."""
    return len(text[:place].rstrip(" \t\r\n"))


def _line_start(text: str, place: int) -> int:
    return text.rfind("\n", 0, place) + 1


def _indent_at(text: str, start: int) -> str:
    found = re.compile(r"[ \t]*").match(text, start)
    return found[0] if found else ""


def _unit(text: str) -> str:
    found = re.search(r"\n([ \t]+)\S", text)
    return found[1] if found else "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _shown(value: object, indent: str, unit: str, newline: str) -> str:
    lines = json.dumps(value, indent=unit, ensure_ascii=False).split("\n")
    return f"{newline}{indent}".join(lines)


def _gap(text: str, place: int) -> int:
    found = _GAP.match(text, place)
    end = found.end() if found else place
    if text.startswith("/*", end):
        raise JsoncError(text, len(text), "*/")
    return end


def _value(text: str, place: int, depth: int) -> Node:
    if depth > _DEEPEST:
        raise JsoncError(text, place, f"at most {_DEEPEST} levels")
    match text[place : place + 1]:
        case "{":
            return _object(text, place, depth)
        case "[":
            return _array(text, place, depth)
        case '"':
            value, end = _string(text, place)
            return Node(value, place, end)
        case _:
            found = _SCALAR.match(text, place)
            if found is None:
                raise JsoncError(text, place, "a value")
            try:
                return Node(json.loads(found[0]), place, found.end())
            except ValueError:
                raise JsoncError(text, place, "a number") from None


def _object(text: str, start: int, depth: int) -> Node:
    members: list[Member] = []
    place, more = _gap(text, start + 1), True
    while text[place : place + 1] != "}":
        if not more:
            raise JsoncError(text, place, "',' or '}'")
        if text[place : place + 1] != '"':
            raise JsoncError(text, place, "a key in double quotes or '}'")
        key, end = _string(text, place)
        colon = _gap(text, end)
        if text[colon : colon + 1] != ":":
            raise JsoncError(text, colon, "':'")
        node = _value(text, _gap(text, colon + 1), depth + 1)
        after = _gap(text, node.end)
        more = text[after : after + 1] == ","
        members.append(Member(key, place, node, after if more else None))
        place = _gap(text, after + 1) if more else after
    return Node({member.key: member.node.value for member in members}, start, place + 1, members)


def _array(text: str, start: int, depth: int) -> Node:
    values: list[object] = []
    place, more = _gap(text, start + 1), True
    while text[place : place + 1] != "]":
        if not more:
            raise JsoncError(text, place, "',' or ']'")
        node = _value(text, place, depth + 1)
        values.append(node.value)
        after = _gap(text, node.end)
        more = text[after : after + 1] == ","
        place = _gap(text, after + 1) if more else after
    return Node(values, start, place + 1)


def _string(text: str, place: int) -> tuple[str, int]:
    found = _STRING.match(text, place)
    if found is None:
        raise JsoncError(text, place, "the end of a text")
    try:
        return str(json.loads(found[0])), found.end()
    except ValueError:
        raise JsoncError(text, place, "a text") from None
