"""The table row of a model."""

from agentapi_mcp.core.catalogue.models import ModelView


def model_row(model: ModelView) -> tuple[object, ...]:
    """Return the columns of a model: name, context window, prices."""
    name = f"{model.name} (default)" if model.is_default else model.name
    prices = model.prices
    return (
        name,
        "unknown" if model.context_window is None else f"{model.context_window:,}",
        "unknown" if prices.input is None else f"{prices.input:f}",
        "unknown" if prices.output is None else f"{prices.output:f}",
    )
