"""The arguments of tools: their schema, and the check of a call against it in words that a model can act on.

The schema is strict; what else clients and models send is taken where it has one meaning (docs/design/mcp-edge.md).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.json_values import is_list, is_object
from agentapi_mcp.base.spellings import named, spelling
from agentapi_mcp.presentation.text import shown

Kind = Literal["string", "integer", "number", "boolean", "array"]
Value = str | int | float | bool | tuple[str, ...]
_ARTICLE = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list of strings",
}
# As JSON writes them: others, such as 1,5 or 010, mean one thing here and another there.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?", re.ASCII)
_LONGEST_WORD = 40
_INTEGER_BITS = 128
# What models write for an argument that they leave out, besides null and "".
_NOTHING = frozenset({"null", "none", "nil", "undefined"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One flat argument of a tool; an optional one may be left out or null, which is the same.

    A text that is `verbatim` is the caller's own, in which "none" is a word like any other. One that is `scalar` is a
    value whose type depends on what it is for, so a number and true or false are taken as JSON writes them.
    """

    name: str
    kind: Kind = "string"
    about: str = ""
    required: bool = False
    verbatim: bool = False
    scalar: bool = False
    least: int | None = None
    most: int | None = None
    one_of: tuple[str, ...] = ()

    def schema(self) -> dict[str, object]:
        """Return the argument's JSON schema."""
        parts: dict[str, object] = {"type": self.kind, "description": self.about}
        if self.kind == "array":
            parts["items"] = {"type": "string"}
        parts |= {"minimum": self.least, "maximum": self.most, "enum": list(self.one_of)}
        return {name: part for name, part in parts.items() if part not in (None, "", [])}


def input_schema(arguments: Sequence[Argument]) -> dict[str, object]:
    """Return the schema of all arguments; others are refused."""
    schema: dict[str, object] = {
        "type": "object",
        "properties": {argument.name: argument.schema() for argument in arguments},
        "additionalProperties": False,
    }
    required = [argument.name for argument in arguments if argument.required]
    return schema | ({"required": required} if required else {})


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """The checked arguments of one call."""

    values: Mapping[str, Value]

    def text(self, name: str) -> str:
        """Return a required string."""
        return str(self.values[name])

    def find_text(self, name: str) -> str | None:
        """Return an optional string."""
        value = self.values.get(name)
        return None if value is None else str(value)

    def find_number(self, name: str) -> float | None:
        """Return an optional number."""
        value = self.values.get(name)
        return value if isinstance(value, int | float) else None

    def find_texts(self, name: str) -> tuple[str, ...] | None:
        """Return an optional list of strings."""
        value = self.values.get(name)
        return value if isinstance(value, tuple) else None

    def flag(self, name: str) -> bool:
        """Return an optional boolean, which is false when it is left out."""
        return self.values.get(name) is True

    def find_integer(self, name: str) -> int | None:
        """Return an optional whole number."""
        value = self.values.get(name)
        return int(value) if isinstance(value, int | float) else None


def check_arguments(tool: str, arguments: Sequence[Argument], given: Mapping[str, object] | None) -> ToolArguments:
    """Take what has one meaning, and refuse a call whose arguments do not fit.

    Raises:
        InvalidRequestError: names the argument, what is wrong with it, and what there is instead.
    """
    known = {argument.name: argument for argument in arguments}
    values: dict[str, Value] = {}
    for name, value in (given or {}).items():
        argument = known.get(name) or _respelled(known, name)
        if argument is None:
            there = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InvalidRequestError(f"{tool} has no argument {shown(name)!r}; {there}.")
        if _is_left_out(argument, value):
            continue
        taken = _take(argument, value)
        if values.setdefault(argument.name, taken) != taken:
            raise InvalidRequestError(f"{tool} was given {argument.name} twice, with different values.")
    for argument in arguments:
        if argument.required and argument.name not in values:
            raise InvalidRequestError(f"{tool} needs the argument {argument.name!r}.")
    return ToolArguments(values)


def _respelled(known: Mapping[str, Argument], name: str) -> Argument | None:
    """Find an argument by another spelling of its name, such as sessionId."""
    together = {each.replace("_", ""): argument for each, argument in known.items()}
    return None if len(name) > _LONGEST_WORD else together.get(spelling(name).replace("-", ""))


def _is_left_out(argument: Argument, value: object) -> bool:
    if value is None:
        return True
    if argument.required or not isinstance(value, str) or len(value) > _LONGEST_WORD:
        return False
    text = value.strip().casefold()
    return not text or (text in _NOTHING and not argument.verbatim)


def _take(argument: Argument, value: object) -> Value:
    match argument.kind:
        case "string":
            taken: Value | None = _text(argument, value)
        case "array":
            taken = _texts(value)
        case "boolean":
            taken = value if isinstance(value, bool) else _spelled_boolean(value)
        case "integer" | "number":
            taken = _number(argument, value)
    if taken is None:
        raise InvalidRequestError(f"{argument.name} must be {_allowed(argument)}, not {_received(value)}.")
    return taken


def _text(argument: Argument, value: object) -> str | None:
    if argument.scalar and isinstance(value, bool | float):
        value = json.dumps(value)
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= _INTEGER_BITS:
        value = str(value)
    if not isinstance(value, str) or not argument.one_of:
        return value if isinstance(value, str) else None
    return value if value in argument.one_of else named(value, argument.one_of)


def _texts(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        value = _listed(value)
    if not is_list(value) or not all(isinstance(item, str) for item in value):
        return None
    return tuple(map(str, value))


def _listed(text: str) -> object:
    """Return the list that a text is in JSON, or that of the text alone; one with commas may be either."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None
    return None if "," in text else [text]


def _spelled_boolean(value: object) -> bool | None:
    return {"true": True, "false": False}.get(spelling(value).strip()) if isinstance(value, str) else None


def _number(argument: Argument, value: object) -> int | float | None:
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text) if len(text) <= _LONGEST_WORD and _NUMBER.fullmatch(text) else None
    if argument.kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int if argument.kind == "integer" else int | float):
        return None
    least, most = argument.least, argument.most
    if (least is not None and not value >= least) or (most is not None and not value <= most):
        return None
    return value


def _allowed(argument: Argument) -> str:
    """Say what an argument may be."""
    if argument.one_of:
        return f"one of {', '.join(argument.one_of)}"
    least, most = argument.least, argument.most
    if least is None:
        return _ARTICLE[argument.kind]
    between = f"between {least} and {most}" if most is not None else f"of at least {least}"
    return f"{_ARTICLE[argument.kind]} {between}"


def _received(value: object) -> str:
    """Show a value that was refused, shortened."""
    if is_object(value):
        return "an object"
    if is_list(value):
        return "a list" if all(isinstance(item, str) for item in value) else "a list with other values"
    return shown(json.dumps(value, ensure_ascii=False))
