"""The base of structured results, and models of results that are made from records."""

from dataclasses import is_dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model
from pydantic.json_schema import SkipJsonSchema

from agentapi_mcp.base.json_records import Record, RecordField, record_fields

# A field that results have and no schema names, since every client's model reads the schemas.
Unlisted = SkipJsonSchema
_JSON_KINDS = {timedelta: int, Decimal: float}


class OutputModel(BaseModel):
    """The base of all output models."""

    model_config = ConfigDict(frozen=True)


def fields_of(record: type[Record]) -> dict[str, Any]:
    """Return a record's fields as `create_model` takes them: those of `to_json`, with amounts as numbers."""
    return {field.name: _listed_type(field) for field in record_fields(record)}


def _listed_type(field: RecordField) -> Any:  # noqa: ANN401  # a type or a union
    kind = _json_type(field)
    return kind if field.listed else Unlisted[kind]


def _json_type(field: RecordField) -> Any:  # noqa: ANN401  # a type or a union
    kind = _JSON_KINDS.get(field.kind, field.kind)
    if is_dataclass(kind):
        kind = create_model(kind.__name__, __base__=OutputModel, **fields_of(kind))
    elif issubclass(kind, Enum):
        kind = str
    whole = list[kind] if field.many else kind
    return whole | None if field.nullable else whole
