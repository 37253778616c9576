"""The prices that come with the program: facts of a public list (`prices.csv`), by provider and exact id of the model.

The list is read when a price is first asked for. A row is valid from one day until before another, in UTC, at certain
hours or at all; rows that differ in `above` alone are tiers by the input tokens of a request. `make prices` writes it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path

from agentapi_mcp.base.money import RATES, Prices, Tier
from agentapi_mcp.core.catalogue.models import ModelRow
from agentapi_mcp.core.keys.models import plain_provider

FILE = Path(__file__).parents[2] / "prices.csv"
COLUMNS = ("provider", "model", "from", "until", "hours", "above", *RATES, "context_window")

# How else the list's providers are called in configuration files: by the docs here, or by everybody.
_OTHER_NAMES = {
    **dict.fromkeys(("gemini", "vertex", "vertex-ai"), "google"),
    "bedrock": "aws",
    "xai": "x-ai",
}


@dataclass(frozen=True, slots=True)
class PriceList:
    """A list: its name, the day when it was read, and its rows by provider and model, each without these two."""

    source: str
    on: date
    rows: Mapping[tuple[str, str], list[str]]

    def prices(self, provider: str, model_id: str, at: datetime) -> Prices | None:
        """Return what a model costs at a moment; None where the list does not have it."""
        rows = self._find(provider, model_id)
        return _at(rows, at.astimezone(UTC), Prices(source=self.source, on=self.on)) if rows else None

    def context_window(self, provider: str, model_id: str) -> int | None:
        """Return the context window of a model in tokens, which is the same in all of its rows."""
        window = self._find(provider, model_id)[:1]
        return int(window[0].rpartition(",")[2] or 0) or None if window else None

    def _find(self, provider: str, model_id: str) -> list[str]:
        name = plain_provider(provider)
        return self.rows.get((_OTHER_NAMES.get(name, name), model_id.lower()), [])


def parse_prices(text: str) -> PriceList:
    """Read a list: its name, version and day in the first line, the names of the columns, and the rows."""
    first, _, *lines = text.splitlines()
    source, _, on = first.split(",")
    rows: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        provider, model, row = line.split(",", 2)
        rows.setdefault((provider, model), []).append(row)
    return PriceList(source, date.fromisoformat(on), rows)


@cache
def shipped_prices() -> PriceList:
    """Return the list that comes with the program."""
    return parse_prices(FILE.read_text("utf-8"))


def prices_of(model: ModelRow, at: datetime) -> Prices:
    """Return what a model costs at a moment: by its row, which the operator or another program wrote, else by the list.

    Prices of the two are never mixed.
    """
    if model.prices.is_known:
        return model.prices
    return shipped_prices().prices(model.provider, model.model_id, at) or model.prices


def context_window_of(model: ModelRow) -> int | None:
    """Return the context window of a model in tokens: by its row, else by the list."""
    return model.context_window or shipped_prices().context_window(model.provider, model.model_id)


def _at(rows: Iterable[str], at: datetime, prices: Prices) -> Prices | None:
    day, hour = at.date().isoformat(), f"{at:%H:%M}"
    found: list[tuple[int, dict[str, Decimal | None]]] = []
    for row in rows:
        since, until, hours, above, *amounts, _ = row.split(",")
        first, _, end = hours.partition("-")
        # Texts: dates and times in ISO 8601 are ordered as they are.
        if since <= day and (not until or day < until) and (not hours or first <= hour < end):
            rates = dict(zip(RATES, (Decimal(each) if each else None for each in amounts), strict=True))
            found.append((int(above or 0), rates))
    if not found:
        return None
    (_, base), *others = found
    return Prices(
        **base,
        tiers=tuple(Tier(above=above, **rates) for above, rates in others),
        source=prices.source,
        on=prices.on,
    )
