"""Dataclasses as JSON objects, derived from their fields: a new field is written and read without further code.

Durations are whole milliseconds, under a name that ends in `_ms`; an amount is a text unless the caller says otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, ClassVar, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

from agentapi_mcp.base.durations import from_milliseconds, to_milliseconds
from agentapi_mcp.base.json_values import as_list, as_object

_NAME, _UNLISTED = "json", "unlisted"
_AS_THEY_ARE = frozenset({str, int, bool})
_KINDS = _AS_THEY_ARE | {Decimal, timedelta}


class Record(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True, slots=True)
class RecordField:
    """A field of a record: its attribute, its name in JSON, and the type of its value, which may be many or None.

    One that is not `listed` is in the JSON, and in no schema of it.
    """

    attribute: str
    name: str
    kind: type
    many: bool
    nullable: bool
    listed: bool


def named(name: str) -> Mapping[str, str]:
    """Return the metadata of a field that has another name in JSON."""
    return {_NAME: name}


def unlisted() -> Mapping[str, bool]:
    """Return the metadata of a field that no schema names: every client's model reads the schemas."""
    return {_UNLISTED: True}


@cache
def record_fields(record: type[Record]) -> tuple[RecordField, ...]:
    """Return the fields of a dataclass, in order.

    Raises:
        TypeError: a field is neither a scalar, an enum or a record, nor a tuple of them, nor such a one or None.
    """
    hints: dict[str, Any] = get_type_hints(record)
    return tuple(_field(field, hints[field.name]) for field in fields(record))


def to_json(record: Record, amount: Callable[[Decimal], object] = str) -> dict[str, object]:
    """Serialize a record."""
    written: dict[str, object] = {}
    for field in record_fields(type(record)):
        value: Any = getattr(record, field.attribute)
        is_plain = field.kind in _AS_THEY_ARE
        if field.many:
            value = list(value) if is_plain else [_one_to_json(each, amount) for each in value]
        elif value is not None and not is_plain:
            value = _one_to_json(value, amount)
        written[field.name] = value
    return written


def from_json(record: type[RecordT], values: Mapping[str, object]) -> RecordT:
    """Read a record; a field that is absent has its default, and an unknown name is ignored.

    Programs of different age read each other's records.
    """
    known = {
        field.attribute: _value(field, values[field.name]) for field in record_fields(record) if field.name in values
    }
    return record(**known)


def _field(field: Field[Any], hint: Any) -> RecordField:  # noqa: ANN401  # a type, a union or a generic alias
    arguments = get_args(hint)
    many, nullable = get_origin(hint) is tuple and ... in arguments, NoneType in arguments
    kinds = [each for each in arguments if each not in {NoneType, ...}] if many or nullable else [hint]
    if len(kinds) != 1 or not _is_kind(kinds[0]):
        raise TypeError(f"The field {field.name} has a type that a record cannot have in JSON: {hint}.")
    kind: type = kinds[0]
    name = field.metadata.get(_NAME) or (f"{field.name}_ms" if kind is timedelta else field.name)
    return RecordField(field.name, name, kind, many, nullable, listed=not field.metadata.get(_UNLISTED))


def _is_kind(hint: object) -> bool:
    if not isinstance(hint, type):
        return False
    kind = cast("type[object]", hint)
    return kind in _KINDS or issubclass(kind, Enum) or is_dataclass(kind)


def _one_to_json(value: object, amount: Callable[[Decimal], object]) -> object:
    match value:
        case timedelta():
            return to_milliseconds(value)
        case Decimal():
            return amount(value)
        case str():  # of an enumeration, whose own `value` is slow
            return str(value)
        case Enum():
            return value.value
        case _:
            return to_json(cast("Record", value), amount)


def _value(field: RecordField, value: object) -> object:
    if value is None:
        return None
    if field.many:
        return tuple(_one(field.kind, each) for each in as_list(value))
    return _one(field.kind, value)


def _one(kind: type, value: object) -> Any:  # noqa: ANN401  # an instance of `kind`
    if is_dataclass(kind):
        return from_json(kind, as_object(value))
    if kind is timedelta and isinstance(value, int):
        return from_milliseconds(value)
    if kind is Decimal:
        return Decimal(str(value))
    return kind(value) if issubclass(kind, Enum) else value
