"""JSON schemas as clients can read them: no references, no titles, nullable as a list of types."""

from collections.abc import Mapping
from functools import cache

from pydantic import BaseModel

from agentapi_mcp.base.json_values import as_list, as_object, is_list, is_object

Json = dict[str, object]


@cache
def output_schema(model: type[BaseModel]) -> Json:
    """Return a model's schema with every reference put in its place; some clients do not follow references.

    `required` names the top fields that are never null: all fields are always there, and the names cost every client
    a part of its context.
    """
    whole = model.model_json_schema(mode="serialization")
    definitions: Json = whole.pop("$defs", {})
    required: list[str] = whole.pop("required", [])
    schema = as_object(_plain(whole, definitions))
    fields = as_object(schema["properties"])
    return schema | {"required": [name for name in required if not _may_be_null(as_object(fields[name]))]}


def _may_be_null(field: Json) -> bool:
    kind = field.get("type")
    return "anyOf" in field or kind == "null" or "null" in as_list(kind)


def _plain(node: object, definitions: Mapping[str, object]) -> object:
    if is_list(node):
        return [_plain(each, definitions) for each in node]
    if not is_object(node):
        return node
    if "$ref" in node:
        return _plain(definitions[str(node["$ref"]).rsplit("/", 1)[-1]], definitions)
    return _nullable({name: _part(name, part, definitions) for name, part in node.items() if _is_kept(name, part)})


def _part(name: str, part: object, definitions: Mapping[str, object]) -> object:
    if name == "properties":  # here the keys are names of fields, and none of them is a keyword
        return {field: _plain(each, definitions) for field, each in as_object(part).items()}
    return _plain(part, definitions)


def _is_kept(name: str, part: object) -> bool:
    if name in {"title", "description"}:  # made of class names and docstrings, which say nothing to a client
        return not isinstance(part, str)
    return name != "required" and not (name == "additionalProperties" and part is True)


def _nullable(schema: Json) -> Json:
    """Write `anyOf: [X, null]` as X with two types, where X has one."""
    options = schema.get("anyOf")
    if not is_list(options):
        return schema
    choices = list(map(as_object, options))
    wanted = [choice for choice in choices if choice != {"type": "null"}]
    if len(wanted) != 1 or len(wanted) == len(choices) or not isinstance(wanted[0].get("type"), str):
        return schema
    return {**wanted[0], "type": [wanted[0]["type"], "null"]} | {k: v for k, v in schema.items() if k != "anyOf"}
