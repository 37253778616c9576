"""What a turn cost: the provider's own figure, else the price list's, else unknown."""

from decimal import Decimal

from agentapi_mcp.core.events import Usage
from agentapi_mcp.core.records.agents import Prices

_MILLION = Decimal(1_000_000)


def cost_of(usage: Usage, prices: Prices) -> tuple[Decimal | None, str | None]:
    """Return the cost in US dollars and where it comes from; both None when it is unknown, never zero for unknown."""
    if usage.cost_usd is not None:
        return usage.cost_usd, "provider"
    if usage.input_tokens is None or usage.output_tokens is None or prices.input is None or prices.output is None:
        return None, None
    cached = usage.cached_tokens or 0
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    cost = (
        (usage.input_tokens - cached) * prices.input + cached * cached_price + usage.output_tokens * prices.output
    ) / _MILLION
    return cost, f"price list of {prices.on}" if prices.on is not None else "price list"
