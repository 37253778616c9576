"""A model as a row of a table."""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true
if TYPE_CHECKING:
    from agentapi_mcp.core.catalogue.models import ModelView

MODEL_COLUMNS = ("MODEL", "PROVIDER", "CONTEXT (TOKENS)", "IN ($ PER 1M)", "OUT ($ PER 1M)")


def model_row(model: ModelView) -> tuple[object, ...]:
    """Return the columns of a model, and its description."""
    prices = model.prices
    return (
        f"{model.name} (default)" if model.is_default else model.name,
        model.provider,
        "unknown" if model.context_window is None else f"{model.context_window:,}",
        "unknown" if prices.input is None else f"{prices.input:f}",
        "unknown" if prices.output is None else f"{prices.output:f}",
        model.description,
    )
