"""JSON schemas as clients can read them: no references, no titles, nullable as a list of types."""

from collections.abc import Mapping
from functools import cache
from typing import cast

from pydantic import BaseModel

Json = dict[str, object]


@cache
def output_schema(model: type[BaseModel]) -> Json:
    """Return a model's schema with every reference put in its place; some clients do not follow references.

    `required` names the top fields that are never null: all fields are always there, and the names cost every client
    a part of its context.
    """
    whole = cast("Json", model.model_json_schema(mode="serialization"))
    definitions = cast("Mapping[str, object]", whole.pop("$defs", {}))
    required = cast("list[str]", whole.pop("required", []))
    schema = cast("Json", _plain(whole, definitions))
    fields = cast("dict[str, Json]", schema["properties"])
    return schema | {"required": [name for name in required if not _may_be_null(fields[name])]}


def _may_be_null(field: Json) -> bool:
    return "anyOf" in field or "null" in cast("list[str]", field.get("type", []))


def _plain(node: object, definitions: Mapping[str, object]) -> object:
    if isinstance(node, list):
        return [_plain(each, definitions) for each in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    schema = cast("Json", node)
    if "$ref" in schema:
        return _plain(definitions[str(schema["$ref"]).rsplit("/", 1)[-1]], definitions)
    return _nullable({name: _part(name, part, definitions) for name, part in schema.items() if _is_kept(name, part)})


def _part(name: str, part: object, definitions: Mapping[str, object]) -> object:
    if name == "properties":  # here the keys are names of fields, and none of them is a keyword
        return {field: _plain(each, definitions) for field, each in cast("Json", part).items()}
    return _plain(part, definitions)


def _is_kept(name: str, part: object) -> bool:
    if name in {"title", "description"}:  # made of class names and docstrings, which say nothing to a client
        return not isinstance(part, str)
    return name != "required" and not (name == "additionalProperties" and part is True)


def _nullable(schema: Json) -> Json:
    """Write `anyOf: [X, null]` as X with two types, where X has one."""
    options = schema.get("anyOf")
    if not isinstance(options, list):
        return schema
    choices = cast("list[Json]", options)
    wanted = [choice for choice in choices if choice != {"type": "null"}]
    if len(wanted) != 1 or len(wanted) == len(choices) or not isinstance(wanted[0].get("type"), str):
        return schema
    return {**wanted[0], "type": [wanted[0]["type"], "null"]} | {k: v for k, v in schema.items() if k != "anyOf"}
