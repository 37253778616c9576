"""The cost of a turn: as reported by the provider, else computed from the price list, else unknown."""

from dataclasses import replace
from decimal import Decimal

from agentapi_mcp.base.money import EXACT, MOST_USD, Prices, Rates, whole_nanos
from agentapi_mcp.core.backends.events import Usage

# Where the cost of zero comes from of a turn for which nobody was asked, and of one that was refused before any work.
NOT_ASKED, REFUSED = "not asked", "refused"

_MILLION = Decimal(1_000_000)
_MOST_TOKENS = 1_000_000_000


def plausible(usage: Usage) -> Usage:
    """Replace implausible counts and amounts by None: they are provider errors, and exceed the column types.

    Parts that are more than their whole are implausible: what was cached or written to the cache is part of the input.
    """
    tokens_in = _tokens(usage.input_tokens)
    cached, written = _part(usage.cached_tokens, tokens_in), _part(usage.cache_write_tokens, tokens_in)
    if (cached or 0) + (written or 0) > (tokens_in or 0):
        cached = written = None
    return replace(
        usage,
        input_tokens=tokens_in,
        output_tokens=_tokens(usage.output_tokens),
        cached_tokens=cached,
        reasoning_tokens=_tokens(usage.reasoning_tokens),
        cost_usd=None if usage.cost_usd is None else _dollars(usage.cost_usd),
        cache_write_tokens=written,
        cache_write_1h_tokens=_part(usage.cache_write_1h_tokens, written),
    )


def cost_of(usage: Usage, prices: Prices) -> tuple[Decimal | None, str | None]:
    """Return the cost in US dollars and its source; both are None, never zero, when it is unknown.

    It is a whole number of nano-dollars, rounded once.
    """
    if usage.cost_usd is not None:
        return usage.cost_usd, "provider"
    if usage.input_tokens is None or usage.output_tokens is None:
        return None, None
    due = _due(usage, usage.input_tokens, usage.output_tokens, prices.of(usage.input_tokens))
    cost = None if due is None else _dollars(EXACT.divide(due, _MILLION))
    return (None, None) if cost is None else (cost, prices.origin)


def _due(usage: Usage, tokens_in: int, tokens_out: int, rates: Rates) -> Decimal | None:
    """Return the sum of the tokens times their prices; None if one of them has none."""
    if rates.input is None or rates.output is None:
        return None
    cached, written, hour = usage.cached_tokens or 0, usage.cache_write_tokens or 0, usage.cache_write_1h_tokens or 0
    # Some providers count reasoning beside the output, and bill it as output.
    reasoning = 0 if rates.reasoning is None else min(usage.reasoning_tokens or 0, tokens_out)
    parts = (
        (tokens_in - cached - written, rates.input),
        (cached, rates.input if rates.cached_input is None else rates.cached_input),
        # Writing costs more than input where it costs anything: no other price stands for it.
        (written - hour, rates.cache_write),
        (hour, rates.cache_write_1h),
        (tokens_out - reasoning, rates.output),
        (reasoning, rates.reasoning),
    )
    due = Decimal(0)
    for tokens, price in parts:
        if tokens and price is None:
            return None
        due = EXACT.fma(tokens, price or Decimal(0), due)
    return due


def _part(count: int | None, whole: int | None) -> int | None:
    return None if count is None or whole is None or not 0 <= count <= whole else count


def _tokens(count: int | None) -> int | None:
    return count if count is not None and 0 <= count <= _MOST_TOKENS else None


def _dollars(cost: Decimal) -> Decimal | None:
    if not cost.is_finite() or not 0 <= cost <= MOST_USD:
        return None
    return whole_nanos(cost)
