"""The arguments of tools: their schema, and the check of a call against it in words that a model can act on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.json_values import is_list
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One flat argument of a tool; an optional one may be left out or null, which is the same."""

    name: str
    kind: Kind = "string"
    about: str = ""
    required: bool = False
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
    """Refuse a call whose arguments do not fit.

    Raises:
        InvalidRequestError: names the argument, what is wrong with it, and what there is instead.
    """
    known = {argument.name: argument for argument in arguments}
    values: dict[str, Value] = {}
    for name, value in (given or {}).items():
        if name not in known:
            there = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InvalidRequestError(f"{tool} has no argument {shown(name)!r}; {there}.")
        if value is not None:
            values[name] = _check_value(known[name], value)
    for argument in arguments:
        if argument.required and argument.name not in values:
            raise InvalidRequestError(f"{tool} needs the argument {argument.name!r}.")
    return ToolArguments(values)


def _check_value(argument: Argument, value: object) -> Value:
    match argument.kind, value:
        case "string", str():
            return _check_choice(argument, value) if argument.one_of else value
        case "array", _ if is_list(value):
            return _check_items(argument, value)
        case "boolean", bool():
            return value
        case (("integer" | "number"), int()) if not isinstance(value, bool):
            return _check_range(argument, value)
        case "number", float():
            return _check_range(argument, value)
        case "integer", float() if value.is_integer():
            return _check_range(argument, int(value))
        case _:
            raise InvalidRequestError(f"{argument.name} must be {_ARTICLE[argument.kind]}.")


def _check_choice(argument: Argument, value: str) -> str:
    if value not in argument.one_of:
        raise InvalidRequestError(f"{argument.name} must be one of {', '.join(argument.one_of)}.")
    return value


def _check_items(argument: Argument, value: list[object]) -> tuple[str, ...]:
    if not all(isinstance(item, str) for item in value):
        raise InvalidRequestError(f"{argument.name} must be {_ARTICLE[argument.kind]}.")
    return tuple(map(str, value))


def _check_range(argument: Argument, value: float) -> int | float:
    least, most = argument.least, argument.most
    if (least is not None and not value >= least) or (most is not None and not value <= most):
        between = f"between {least} and {most}" if most is not None else f"at least {least}"
        raise InvalidRequestError(f"{argument.name} must be {between}.")
    return value
