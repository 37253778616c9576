"""The lists of models of providers."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_object, is_list, is_object
from agentapi_mcp.core.backends.models import OfferedModel

_MILLION = 1_000_000
# The names that OpenRouter, Groq, Mistral, vLLM and LM Studio, and Anthropic give to the same.
_WINDOWS = ("context_length", "context_window", "max_context_length", "max_model_len", "max_input_tokens")
_OUTPUTS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


def read_models(body: object) -> tuple[OfferedModel, ...]:
    """Read what a provider answers to `/models`.

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
        # Gemini lists its models with the prefix of its own API, and takes them without.
        model_id=name.removeprefix("models/") if isinstance(name, str) else "",
        context_window=_count(fields, _WINDOWS),
        max_output_tokens=_count(as_object(fields.get("top_provider")), _OUTPUTS) or _count(fields, _OUTPUTS),
        input_price=_price(prices.get("prompt")),
        output_price=_price(prices.get("completion")),
        cached_price=_price(prices.get("input_cache_read")),
    )


def _count(fields: Mapping[str, object], keys: tuple[str, ...]) -> int | None:
    found = (fields.get(key) for key in keys)
    return next(
        (value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None
    )


def _price(value: object) -> Decimal | None:
    """Return a price per token as one per million; what is negative means that it depends."""
    if is_object(value) or isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        price = Decimal(value) * _MILLION
    except InvalidOperation:
        return None
    return price.normalize() if price.is_finite() and price >= 0 else None
