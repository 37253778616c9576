"""A model as a row of a table."""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true
if TYPE_CHECKING:
    from agentapi_mcp.base.money import Prices
    from agentapi_mcp.core.catalogue.models import ModelView

MODEL_COLUMNS = ("MODEL", "PROVIDER", "CONTEXT (TOKENS)", "IN ($ PER 1M)", "OUT ($ PER 1M)")


def model_row(model: ModelView) -> tuple[object, ...]:
    """Return the columns of a model, and its description."""
    prices = model.prices
    return (
        f"{model.name} (default)" if model.is_default else model.name,
        model.provider,
        "unknown" if model.context_window is None else f"{model.context_window:,}",
        _price(prices, "input"),
        _price(prices, "output"),
        model.description,
    )


def _price(prices: Prices, name: str) -> str:
    """Write a price, with those of longer requests."""
    steps = [(0, getattr(prices, name)), *((tier.above, getattr(tier, name)) for tier in prices.tiers)]
    texts = ["unknown" if price is None else f"{price:f}" for _, price in steps]
    changes = [
        f"{text} above {above:,} in"
        for (above, _), text, before in zip(steps[1:], texts[1:], texts, strict=False)
        if text != before
    ]
    return f"{texts[0]} ({', '.join(changes)})" if changes else texts[0]
