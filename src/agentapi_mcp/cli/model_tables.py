"""A model of a provider's list as a table of the configuration file, for `agents add` and `models sync` alike."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.base.visible import replace_invisible
from agentapi_mcp.core.backends.models import OfferedModel

_LONGEST = 255  # of a name in the configuration file
_ORIGIN = ("source", "on")
_PRICES = ("input", "output", "cached_input", "cache_write")


def today() -> date:
    """Return the day on which a list is read."""
    return datetime.now(UTC).date()


def declarable(offered: Sequence[OfferedModel]) -> dict[str, OfferedModel]:
    """Return the models by their ids, without those whose id is too long, or has characters that nobody sees."""
    ids = {model.model_id: model for model in offered}
    return {
        name: model
        for name, model in ids.items()
        if len(name) <= _LONGEST and replace_invisible(name, lambda _: "") == name
    }


def new_table(model: OfferedModel, provider: str, whose: str, day: date) -> dict[str, object]:
    """Return the table of a model that is not declared yet; `whose` list it is from is the source of its prices."""
    named = {"name": model.model_id, "model_id": model.model_id, "provider": provider}
    return named | changes({}, model, whose, day)


def changes(present: Mapping[str, object], model: OfferedModel, whose: str, day: date) -> dict[str, object]:
    """Return what the list says otherwise than the table of a model; what the list does not say stays."""
    counts = {"context_window": model.context_window, "max_output_tokens": model.max_output_tokens}
    found: dict[str, object] = {
        name: value for name, value in counts.items() if value is not None and present.get(name) != value
    }
    offered = (model.input_price, model.output_price, model.cached_price, model.cache_write_price)
    said = dict(zip(_PRICES, offered, strict=True))
    prices = {name: _number(price) for name, price in said.items() if price is not None}
    before = {name: value for name, value in as_object(present.get("prices")).items() if name not in _ORIGIN}
    if prices and before | prices != before:
        kept = [name for name in before if name not in prices]
        source = f"the list of {whose}" + (f", but for {' and '.join(kept)}" if kept else "")
        found["prices"] = {**before, **prices, "source": source, "on": day}
    return found


def _number(price: Decimal) -> int | float:
    return int(price) if price == price.to_integral_value() else float(price)
