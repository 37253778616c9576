"""Amounts of budgets in words."""

from decimal import Decimal

import pytest

from agentapi_mcp.core.budgets.words import dollars


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        ("0", "$0.00"),
        ("-0.0", "$0.00"),
        ("5", "$5.00"),
        ("1.5", "$1.50"),
        ("-1.5", "-$1.50"),
        ("0.0000114", "$0.0000114"),
        ("-0.000000001", "-$0.000000001"),
        ("1e3", "$1,000.00"),
        ("999999999.999999999", "$999,999,999.999999999"),
    ],
)
def test_an_amount_has_all_of_its_digits_and_two_at_least(amount: str, written: str) -> None:
    assert dollars(Decimal(amount)) == written
