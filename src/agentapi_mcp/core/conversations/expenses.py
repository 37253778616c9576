"""What a turn may cost, as far as that is known before it is asked."""

import math
from datetime import datetime
from decimal import Decimal

from agentapi_mcp.base.money import Prices, Rates
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.core.budgets.models import NANOS, ExpectedRates, Expense
from agentapi_mcp.core.catalogue.agents import Choice
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.history import history_budget, longest_answer
from agentapi_mcp.core.conversations.models import bytes_of

_MILLION = 1_000_000
_FREE = Prices(input=Decimal(0), output=Decimal(0))


def expense_of(choice: Choice, parameters: Parameters, size: int, unpriced: Decimal, at: datetime) -> Expense:
    """Return the expense of a message of `size` bytes, with the parameters and whole instructions that it is sent with.

    `unpriced` is the US dollars that are reserved where the cost is not known; the prices are those of the moment `at`.
    """
    # One with conversations of its own asks its model as often as it likes: no caller bounds that.
    bound = None if Capability.RESUME in choice.capabilities else parameters.max_tokens
    longest = longest_answer(bound, choice.max_output_tokens, choice.context_window)
    if longest is not None and choice.context_window is not None:
        longest = min(longest, choice.context_window)
    fixed = size + bytes_of(parameters.system_prompt or "")
    prices = _FREE if Capability.LIVE in choice.capabilities else choice.prices_at(at)
    return Expense(
        rates=(_rates(prices, longest, 0), *(_rates(tier, longest, tier.above) for tier in prices.tiers)),
        fixed_bytes=fixed,
        history_bytes=history_budget(choice.context_window, longest, fixed, 1.0),
        unpriced_nanos=math.ceil(unpriced * NANOS),
        lender=choice.writer.agent if choice.lender is not None and choice.writer is not None else None,
    )


def _rates(rates: Rates, longest: int | None, above: int) -> ExpectedRates:
    """Return what input and an answer of `longest` tokens cost, each of these at the dearer of what it may be."""
    nanos = None
    if rates.output is not None:
        price = max(rates.output, rates.reasoning or rates.output)
        if longest is not None or price == 0:
            nanos = math.ceil((longest or 0) * price * NANOS / _MILLION)
    return ExpectedRates(above=above, input_price=rates.input, output_nanos=nanos)
