"""The cost of a turn: as reported by the provider, else computed from the price list, else unknown."""

from dataclasses import replace
from decimal import Decimal

from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.backends.events import Usage

_MILLION = Decimal(1_000_000)
_MOST_TOKENS = 1_000_000_000
_MOST_USD = Decimal(1_000_000)
_LEAST_USD = Decimal("1e-12")


def plausible(usage: Usage) -> Usage:
    """Replace implausible counts and amounts by None: they are provider errors, and exceed the column types."""
    tokens_in = _tokens(usage.input_tokens)
    cached = _tokens(usage.cached_tokens)
    return replace(
        usage,
        input_tokens=tokens_in,
        output_tokens=_tokens(usage.output_tokens),
        cached_tokens=None if tokens_in is None or cached is None or cached > tokens_in else cached,
        reasoning_tokens=_tokens(usage.reasoning_tokens),
        cost_usd=None if usage.cost_usd is None else _dollars(usage.cost_usd),
    )


def cost_of(usage: Usage, prices: Prices) -> tuple[Decimal | None, str | None]:
    """Return the cost in US dollars and its source; both are None, never zero, when it is unknown."""
    if usage.cost_usd is not None:
        return usage.cost_usd, "provider"
    if usage.input_tokens is None or usage.output_tokens is None or prices.input is None or prices.output is None:
        return None, None
    # Cached tokens are part of the input tokens, at another price.
    cached = usage.cached_tokens or 0
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    cost = _dollars(
        ((usage.input_tokens - cached) * prices.input + cached * cached_price + usage.output_tokens * prices.output)
        / _MILLION
    )
    if cost is None:
        return None, None
    return cost, f"price list of {prices.on}" if prices.on is not None else "price list"


def _tokens(count: int | None) -> int | None:
    return count if count is not None and 0 <= count <= _MOST_TOKENS else None


def _dollars(cost: Decimal) -> Decimal | None:
    if not cost.is_finite() or not 0 <= cost <= _MOST_USD:
        return None
    return cost.quantize(_LEAST_USD).normalize()
