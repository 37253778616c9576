"""JSON columns that other programs may have written."""

import pytest

from agentapi_mcp.stores.postgres.jsons import json_object


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, {}),
        ("{}", {}),
        ('{"a": [1]}', {"a": [1]}),
        ("[1]", {}),
        ('"a"', {}),
        ('{"a":' * 100 + "1" + "}" * 100, {}),
        ('{"a": [' + "[]," * 30_000 + "1]}", {}),
        ('{"a": ' + "1" * 5_000 + "}", {}),
    ],
)
def test_what_is_no_object_or_too_much_of_one_counts_as_empty(text: str | None, value: dict[str, object]) -> None:
    assert json_object(text) == value
