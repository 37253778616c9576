"""Prices of models."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars per million tokens; None is unknown. `source` and `on` are where and when they were read."""

    input: Decimal | None = None
    output: Decimal | None = None
    cached_input: Decimal | None = None
    source: str | None = None
    on: date | None = None
