"""Amounts of money as callers give them."""

from decimal import Decimal, InvalidOperation

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.validation import MAX_NAME
from agentapi_mcp.core.budgets.models import MOST_USD, NANOS


def check_amount(amount: Decimal, argument: str) -> Decimal:
    """Refuse an amount that is none, or that the store cannot hold exactly.

    Raises:
        InvalidRequestError: it is not finite, negative, too large, or finer than a billionth of a dollar.
    """
    if not amount.is_finite() or not 0 <= amount <= MOST_USD:
        raise InvalidRequestError(f"must be an amount in US dollars between 0 and {MOST_USD:,}.", argument=argument)
    if amount * NANOS % 1:
        raise InvalidRequestError("must be no finer than a billionth of a US dollar.", argument=argument)
    return amount


def parse_amount(text: str, argument: str) -> Decimal:
    """Read an amount in US dollars as people write it, with a dollar sign or without.

    Raises:
        InvalidRequestError: it is none.
    """
    written = text.strip().removeprefix("$")
    try:
        amount = Decimal(written) if len(written) <= MAX_NAME else Decimal("NaN")
    except InvalidOperation:
        amount = Decimal("NaN")
    return check_amount(amount, argument)
