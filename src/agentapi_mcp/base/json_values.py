"""Read untrusted JSON; a value of an unexpected type is treated as absent."""

import json
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import TypeGuard, TypeVar

from agentapi_mcp.base.json_bounds import BOUNDS, JsonBounds

EnumT = TypeVar("EnumT", bound=Enum)


def load_json(
    text: str | bytes | bytearray,
    *,
    parse_float: Callable[[str], object] = float,
    parse_constant: Callable[[str], object] | None = None,
    strict: bool = True,
    bounds: JsonBounds = BOUNDS,
) -> object:
    """Parse JSON to a value of unknown type; unless `strict`, strings may hold raw control characters.

    Raises:
        JsonBoundsError: it exceeds a bound.
        ValueError: it is not valid JSON.
        RecursionError: it is nested too deeply.
    """
    bounds.check(text)
    value: object = json.loads(text, parse_float=parse_float, parse_constant=parse_constant, strict=strict)
    return value


def is_object(value: object) -> TypeGuard[dict[str, object]]:
    """Return whether a JSON value is an object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Return whether a JSON value is an array."""
    return isinstance(value, list)


def as_object(value: object) -> dict[str, object]:
    """Return the value if it is an object, else an empty one."""
    return value if is_object(value) else {}


def as_list(value: object) -> list[object]:
    """Return the value if it is an array, else an empty one."""
    return value if is_list(value) else []


def as_text(value: object) -> str | None:
    """Return the value if it is a non-empty string."""
    return value if isinstance(value, str) and value else None


def as_member(choices: type[EnumT], value: object) -> EnumT | None:
    """Return the member of an enumeration with this value, if there is one."""
    try:
        return choices(value)
    except ValueError:
        return None


def as_count(value: object) -> int | None:
    """Return the value if it is a non-negative integer."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def as_amount(value: object) -> Decimal | None:
    """Return the value if it is a finite, non-negative number or numeric string; floats are inexact and rejected."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    try:
        number = Decimal(value)
    except ArithmeticError:
        return None
    return number if number.is_finite() and number >= 0 else None
