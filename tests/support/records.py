"""Records in which each value stands once, so that one that is lost or mixed up is seen."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from agentapi_mcp.base.json_records import Record
from agentapi_mcp.base.json_values import is_list, is_object

RecordT = TypeVar("RecordT", bound=Record)


def filled(record: type[RecordT]) -> RecordT:
    """Make a record of which no field has its default, or the value of another."""
    return _filled(record, itertools.count(101))


def leaves(value: object) -> Iterator[object]:
    """Return the values inside of records, or of JSON."""
    if is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    elif is_object(value):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = cast("Sequence[object]", value)
    else:
        yield value
        return
    for part in parts:
        yield from leaves(part)


def without_new(value: object, known: object) -> object:
    """Return a JSON value without the names that are not in the known one."""
    if is_object(value) and is_object(known):
        return {name: without_new(part, known[name]) for name, part in value.items() if name in known}
    if is_list(value) and is_list(known) and len(value) == len(known):
        return [without_new(part, other) for part, other in zip(value, known, strict=True)]
    return value


def _filled(record: type[RecordT], numbers: Iterator[int]) -> RecordT:
    hints: dict[str, Any] = get_type_hints(record)
    return record(**{field.name: _value(hints[field.name], numbers) for field in fields(record)})


def _value(hint: Any, numbers: Iterator[int]) -> object:  # noqa: ANN401  # a type, a union or a generic alias
    kind, *others = [each for each in get_args(hint) or (hint,) if each is not NoneType]
    if others == [...]:
        return (_value(kind, numbers), _value(kind, numbers))
    if is_dataclass(kind):
        return _filled(cast("type[Record]", kind), numbers)
    number = next(numbers)
    if issubclass(kind, Enum):
        return list(kind)[number % 2]
    made = {bool: True, timedelta: timedelta(milliseconds=number), Decimal: Decimal(number) / 1000, str: f"a{number}"}
    return made.get(kind, number)
