"""Turn pydantic errors into messages for users."""

from pydantic_core import ErrorDetails

_MESSAGES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "date_type": "must be a date, without quotes",
    "decimal_parsing": "must be a number",
    "decimal_type": "must be a number",
    "dict_type": "must be a table",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "missing": "is missing",
    "model_type": "must be a table",
    "string_type": "must be a text",
    "string_unicode": "must be text in UTF-8",
    "tuple_type": "must be a list",
    "uuid_parsing": "must be an id such as 6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01",
}
_CLASSES = {"date": "must be a date, without quotes", "Decimal": "must be a number"}
_LIMITS = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_short": "must have at least {min_length} characters",  # of a secret; no list has a minimum length
}


def describe_fault(fault: ErrorDetails) -> str:
    """Return a message that continues from the name of the value; it never contains the value itself."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "is_instance_of" and context.get("class") in _CLASSES:
        return _CLASSES[context["class"]]
    if kind == "string_too_short" and context.get("min_length") == 1:
        return "must not be empty"
    if kind in _LIMITS:
        return _LIMITS[kind].format_map({name: _plain(limit) for name, limit in context.items()})
    return _MESSAGES.get(kind) or fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def _plain(limit: object) -> object:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit
