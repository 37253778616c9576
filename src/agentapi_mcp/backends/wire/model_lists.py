"""The lists of models of providers."""

from collections.abc import Mapping
from decimal import Decimal

from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_count, as_object, is_list, is_object
from agentapi_mcp.core.backends.models import OfferedModel

_MILLION = 1_000_000
# What a configuration file may hold; a list that says more is wrong there. Smaller prices are none.
_LONGEST_ID, _MOST_TOKENS, _MOST_USD, _LEAST_USD = 255, 1_000_000_000, 1_000_000, Decimal("1e-9")
# The names that OpenRouter, Groq, Mistral, vLLM and LM Studio, and Anthropic give to the same.
_WINDOWS = ("context_length", "context_window", "max_context_length", "max_model_len", "max_input_tokens")
_OUTPUTS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


def read_models(body: object) -> tuple[OfferedModel, ...]:
    """Read what a provider answers to `/models`.

    One whose id cannot be written is left out, and an implausible number is unknown.

    Raises:
        BackendError: it is no list of models.
    """
    models = as_object(body).get("data")
    if not is_list(models):
        raise BackendError(BackendFault.BAD_REPLY, "There is no list of models below the base URL.")
    read = (_model(as_object(each)) for each in models)
    return tuple(model for model in read if model.model_id)


def _model(fields: Mapping[str, object]) -> OfferedModel:
    name, prices = fields.get("id"), as_object(fields.get("pricing"))
    return OfferedModel(
        model_id=_model_id(name) if isinstance(name, str) else "",
        context_window=_count(fields, _WINDOWS),
        max_output_tokens=_count(as_object(fields.get("top_provider")), _OUTPUTS) or _count(fields, _OUTPUTS),
        input_price=_price(prices.get("prompt")),
        output_price=_price(prices.get("completion")),
        cached_price=_price(prices.get("input_cache_read")),
        cache_write_price=_price(prices.get("input_cache_write")),
    )


def _model_id(name: str) -> str:
    # Gemini lists its models with the prefix of its own API, and takes them without.
    model_id = name.removeprefix("models/")
    return model_id if len(model_id) <= _LONGEST_ID and model_id.isprintable() else ""


def _count(fields: Mapping[str, object], keys: tuple[str, ...]) -> int | None:
    found = (as_count(fields.get(key)) for key in keys)
    return next((value for value in found if value and value <= _MOST_TOKENS), None)


def _price(value: object) -> Decimal | None:
    """Return a price per token as one per million; what is negative means that it depends."""
    if is_object(value) or isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        price = Decimal(value) * _MILLION
    except ArithmeticError:
        return None
    is_price = price.is_finite() and (price == 0 or _LEAST_USD <= price <= _MOST_USD)
    return price.normalize() if is_price else None
