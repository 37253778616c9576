"""Values of JSON that others wrote."""

from decimal import Decimal

import pytest

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.json_values import as_amount, as_count, as_list, as_member, as_object, as_text, load_json

ALL = '[null, true, 0, 7, -1, 1.5, "", "7", "x", [1], {"a": 1}]'


def test_a_value_of_another_type_counts_as_absent() -> None:
    values = as_list(load_json(ALL))
    assert [as_text(value) for value in values if as_text(value) is not None] == ["7", "x"]
    assert [as_count(value) for value in values if as_count(value) is not None] == [0, 7]
    assert [as_list(value) for value in values if as_list(value)] == [[1]]
    assert [as_object(value) for value in values if as_object(value)] == [{"a": 1}]
    assert [as_member(BackendFault, value) for value in values if as_member(BackendFault, value)] == []
    assert as_member(BackendFault, "auth") is BackendFault.AUTH
    assert as_list({"a": 1}) == []
    assert as_object([1]) == {}


def test_an_amount_is_exact_finite_and_not_negative() -> None:
    exact = as_list(load_json(ALL, parse_float=Decimal))
    assert [as_amount(value) for value in exact] == [None, None, 0, 7, None, Decimal("1.5"), None, 7, None, None, None]
    assert [as_amount(value) for value in (1.5, "NaN", "Infinity", "-0.1", "1e999999999999999999999")] == [None] * 5


@pytest.mark.parametrize("text", ["", "{", b"\xff\xff", "nul"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_json(text)
