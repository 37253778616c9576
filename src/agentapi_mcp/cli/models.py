"""A model as a row of a table and as JSON."""

from agentapi_mcp.core.catalogue.models import ModelView


def model_row(model: ModelView) -> tuple[object, ...]:
    """Return the columns of a model: name, context window, prices, description."""
    name = f"{model.name} (default)" if model.is_default else model.name
    prices = model.prices
    return (
        name,
        "unknown" if model.context_window is None else f"{model.context_window:,}",
        "unknown" if prices.input is None else f"{prices.input:f}",
        "unknown" if prices.output is None else f"{prices.output:f}",
        model.description,
    )


def model_json(model: ModelView) -> dict[str, object]:
    """Serialize a model; unknown values are null."""
    prices = model.prices
    return {
        "agent": model.agent,
        "name": model.name,
        "model_id": model.model_id,
        "provider": model.provider,
        "description": model.description,
        "enabled": model.enabled,
        "context_window": model.context_window,
        "input_usd_per_million": None if prices.input is None else float(prices.input),
        "output_usd_per_million": None if prices.output is None else float(prices.output),
        "price_source": prices.source,
        "price_date": prices.on and prices.on.isoformat(),
    }
