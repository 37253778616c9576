"""What a turn may cost, as far as that is known before it is asked."""

import math
from decimal import Decimal

from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.core.budgets.models import NANOS, Expense
from agentapi_mcp.core.catalogue.agents import Choice
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.history import history_budget, longest_answer
from agentapi_mcp.core.conversations.models import bytes_of

_MILLION = 1_000_000
_FREE = Prices(input=Decimal(0), output=Decimal(0))


def expense_of(choice: Choice, parameters: Parameters, size: int, unpriced: Decimal, most: Decimal | None) -> Expense:
    """Return the expense of a message of `size` bytes, with the parameters and whole instructions that it is sent with.

    `unpriced` is what is reserved where the cost is not known, `most` what the caller would pay; both are US dollars.
    """
    longest = longest_answer(parameters.max_tokens, choice.max_output_tokens, choice.context_window)
    fixed = size + bytes_of(parameters.system_prompt or "")
    prices = _FREE if Capability.LIVE in choice.capabilities else choice.prices
    return Expense(
        input_price=prices.input,
        output_nanos=_output_nanos(prices, longest),
        fixed_bytes=fixed,
        history_bytes=history_budget(choice.context_window, longest, fixed, 1.0),
        unpriced_nanos=math.ceil(unpriced * NANOS),
        most_nanos=None if most is None else int(most * NANOS),
    )


def _output_nanos(prices: Prices, longest: int | None) -> int | None:
    if prices.output is None:
        return None
    if longest is None:
        return 0 if prices.output == 0 else None
    return math.ceil(longest * prices.output * NANOS / _MILLION)
