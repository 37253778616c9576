"""Careful reading of what a provider sent: a value of another type than expected counts as absent."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import cast

from agentapi_mcp.core.errors import BackendError, BackendFault


def parse_json(raw: str | bytes, *, what: str) -> object:
    """Parse JSON with exact decimals; `what` names the thing in the error.

    Raises:
        BackendError: BAD_REPLY, since it is no JSON.
    """
    try:
        return cast(object, json.loads(raw, parse_float=Decimal, parse_constant=_refuse_constant))
    except (ValueError, ArithmeticError, RecursionError) as error:  # a number may have too large an exponent
        raise BackendError(BackendFault.BAD_REPLY, f"{what} is not JSON.") from error


def mapping(value: object) -> Mapping[str, object]:
    """Take an object, else an empty one."""
    return cast(Mapping[str, object], value) if isinstance(value, dict) else {}


def sequence(value: object) -> Sequence[object]:
    """Take an array, else an empty one."""
    return cast(Sequence[object], value) if isinstance(value, list) else ()


def text(value: object) -> str | None:
    """Take a string that is not empty."""
    return value if isinstance(value, str) and value else None


def count(value: object) -> int | None:
    """Take a whole number that is not negative."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def amount(value: object) -> Decimal | None:
    """Take a finite number that is not negative, also one written as a string."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    try:
        number = Decimal(value)
    except ArithmeticError:
        return None
    return number if number.is_finite() and number >= 0 else None


def _refuse_constant(name: str) -> object:
    raise ValueError(name)
