"""What a turn costs: exact to the nano-dollar, or unknown."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agentapi_mcp.base.money import Prices, Rates, Tier, whole_nanos
from agentapi_mcp.core.backends.events import Usage
from agentapi_mcp.core.conversations.costs import cost_of, plausible

TOKENS = st.integers(0, 10**9)
# As many digits as a price list may have, and more than a float has.
PRICE = st.decimals(0, 1_000, allow_nan=False, allow_infinity=False, places=12)
NAMES = ("input", "output", "cached_input", "cache_write", "cache_write_1h", "reasoning")
ALL_PRICED = st.builds(Prices, **dict.fromkeys(NAMES, PRICE))
NANO = Decimal("1e-9")


@st.composite
def usages(draw: st.DrawFn, most: int = 10**8) -> Usage:
    """Draw counts whose parts are no more than their whole."""
    tokens = st.integers(0, most)
    plain, cached, hour, brief, out = (draw(tokens) for _ in range(5))
    return Usage(
        input_tokens=plain + cached + hour + brief,
        output_tokens=out,
        cached_tokens=cached,
        reasoning_tokens=draw(st.integers(0, out)),
        cache_write_tokens=hour + brief,
        cache_write_1h_tokens=hour,
    )


def known(usage: Usage, prices: Prices) -> Decimal:
    cost, source = cost_of(usage, prices)
    assert cost is not None
    assert source is not None
    return cost


def exact(usage: Usage, rates: Rates) -> Fraction:
    """Return the cost in nano-dollars, which are a thousandth of what a million tokens cost in dollars."""
    cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    hour, reasoning = usage.cache_write_1h_tokens or 0, usage.reasoning_tokens or 0
    counts = {
        "input": (usage.input_tokens or 0) - cached - written,
        "cached_input": cached,
        "cache_write": written - hour,
        "cache_write_1h": hour,
        "output": (usage.output_tokens or 0) - reasoning,
        "reasoning": reasoning,
    }
    return sum((count * Fraction(getattr(rates, name)) * 1_000 for name, count in counts.items()), Fraction(0))


@given(usages(), ALL_PRICED)
def test_a_cost_is_that_of_exact_arithmetic_in_whole_nano_dollars(usage: Usage, prices: Prices) -> None:
    nanos = Fraction(known(usage, prices)) * 10**9
    assert nanos == round(exact(usage, prices))  # which rounds half to even
    assert nanos >= 0


@given(usages(), usages(), ALL_PRICED)
def test_two_turns_cost_what_one_with_all_their_tokens_costs_but_for_the_rounding(
    one: Usage, other: Usage, prices: Prices
) -> None:
    both = Usage(
        **{name: getattr(one, name) + getattr(other, name) for name in Usage.__dataclass_fields__ if name != "cost_usd"}
    )
    assert abs(known(one, prices) + known(other, prices) - known(both, prices)) <= NANO


@given(usages(), ALL_PRICED, st.sampled_from(NAMES), st.integers(1, 10**6))
def test_more_tokens_of_any_kind_never_cost_less(usage: Usage, prices: Prices, kind: str, more: int) -> None:
    grows = {
        "input": ("input_tokens",),
        "cached_input": ("input_tokens", "cached_tokens"),
        "cache_write": ("input_tokens", "cache_write_tokens"),
        "cache_write_1h": ("input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
        "output": ("output_tokens",),
        "reasoning": ("output_tokens", "reasoning_tokens"),
    }[kind]
    larger = replace(usage, **{name: getattr(usage, name) + more for name in grows})
    assert known(larger, prices) >= known(usage, prices)


@given(usages(most=10_000), ALL_PRICED, ALL_PRICED, st.integers(1, 40_000))
def test_the_tier_is_that_of_the_whole_input_and_holds_for_each_token(
    usage: Usage, base: Prices, long: Prices, above: int
) -> None:
    tier = Tier(above=above, **{name: getattr(long, name) for name in NAMES})
    both = replace(base, tiers=(replace(tier, above=above // 2, input=Decimal(7)), tier))
    assume((usage.input_tokens or 0) > above or (usage.input_tokens or 0) <= above // 2)
    expected = long if (usage.input_tokens or 0) > above else base
    assert known(usage, both) == known(usage, expected)


@pytest.mark.parametrize(("tokens", "dollars"), [(200_000, "0.2"), (200_001, "0.400002")])
def test_a_request_at_the_bound_of_a_tier_is_not_above_it(tokens: int, dollars: str) -> None:
    prices = Prices(
        input=Decimal(1), output=Decimal(1), tiers=(Tier(above=200_000, input=Decimal(2), output=Decimal(2)),)
    )
    assert cost_of(Usage(tokens, 0), prices)[0] == Decimal(dollars)


@pytest.mark.parametrize(
    ("usage", "prices"),
    [
        (Usage(10, 1, cache_write_tokens=4), Prices(input=Decimal(1), output=Decimal(1))),
        (Usage(10, 1, cache_write_tokens=4), Prices(input=Decimal(1), output=Decimal(1), cache_write_1h=Decimal(2))),
        (
            Usage(10, 1, cache_write_tokens=4, cache_write_1h_tokens=1),
            Prices(input=Decimal(1), output=Decimal(1), cache_write=Decimal(2)),
        ),
        (Usage(10, 1), Prices(output=Decimal(1))),
        (Usage(10, 1), Prices(input=Decimal(1))),
        (Usage(10), Prices(input=Decimal(1), output=Decimal(1))),
        (Usage(None, 1), Prices(input=Decimal(1), output=Decimal(1))),
        # A tier has prices of its own, or none: those of smaller requests are too low for it.
        (Usage(10, 1), Prices(input=Decimal(1), output=Decimal(1), tiers=(Tier(above=9, input=Decimal(2)),))),
    ],
)
def test_what_has_no_price_makes_the_cost_unknown_and_not_less(usage: Usage, prices: Prices) -> None:
    assert cost_of(usage, prices) == (None, None)


def test_nothing_written_needs_no_price_of_writing() -> None:
    usage = Usage(10, 1, cache_write_tokens=0, cache_write_1h_tokens=0)
    assert cost_of(usage, Prices(input=Decimal(1), output=Decimal(1)))[0] == Decimal("0.000011")


def test_cached_input_and_reasoning_without_a_price_cost_what_input_and_output_do() -> None:
    usage = Usage(10, 6, cached_tokens=4, reasoning_tokens=5)
    assert cost_of(usage, Prices(input=Decimal(1), output=Decimal(2)))[0] == Decimal("0.000022")
    assert cost_of(usage, Prices(input=Decimal(1), output=Decimal(2), reasoning=Decimal(3)))[0] == Decimal("0.000027")


@pytest.mark.parametrize(
    ("prices", "origin"),
    [
        (Prices(), "price list"),
        (Prices(on=date(2026, 11, 30)), "price list of 2026-11-30"),
        (Prices(source="genai-prices", on=date(2026, 11, 30)), "genai-prices of 2026-11-30"),
        (Prices(source="our contract"), "our contract"),
    ],
)
def test_the_source_names_the_list_and_its_date(prices: Prices, origin: str) -> None:
    free = replace(prices, input=Decimal(0), output=Decimal(0))
    assert cost_of(Usage(1, 1), free) == (0, origin)


@given(st.decimals(0, 10**6, allow_nan=False, allow_infinity=False))
@example(Decimal("0.0000000005"))
@example(Decimal("0.0000000015"))
@example(Decimal("0.00014"))
def test_what_a_provider_reports_is_rounded_to_whole_nano_dollars_half_to_even(reported: Decimal) -> None:
    cost, source = cost_of(plausible(Usage(cost_usd=reported)), Prices())
    assert source == "provider"
    assert cost is not None
    assert Fraction(cost) * 10**9 == round(Fraction(reported) * 10**9)
    assert whole_nanos(cost) == cost


@given(st.none() | TOKENS, st.none() | TOKENS, st.none() | TOKENS, st.none() | TOKENS)
@example(10, 6, 5, 5)
@example(10, 6, 4, 5)
def test_parts_that_are_more_than_their_whole_are_unknown(
    into: int | None, cached: int | None, written: int | None, hour: int | None
) -> None:
    kept = plausible(
        Usage(input_tokens=into, cached_tokens=cached, cache_write_tokens=written, cache_write_1h_tokens=hour)
    )
    assert (kept.cached_tokens or 0) + (kept.cache_write_tokens or 0) <= (kept.input_tokens or 0)
    assert (kept.cache_write_1h_tokens or 0) <= (kept.cache_write_tokens or 0)
    if into is None or written is None or cached is None or hour is None:
        return
    if cached + written <= into and hour <= written:
        assert (kept.cached_tokens, kept.cache_write_tokens, kept.cache_write_1h_tokens) == (cached, written, hour)
