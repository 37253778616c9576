"""Prices of models, and amounts of money."""

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal

MOST_USD = 1_000_000  # that a million tokens, or a turn, can cost
# A price has as many digits as whoever wrote it gave it: nothing is rounded before the end.
EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN)
_NANO = Decimal("1e-9")
RATES: tuple[str, ...] = ("input", "output", "cached_input", "cache_write", "cache_write_1h", "reasoning")


def whole_nanos(dollars: Decimal) -> Decimal:
    """Round an amount of US dollars to whole nano-dollars (1e-9), half to even."""
    return dollars.quantize(_NANO, context=EXACT).normalize(EXACT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """US dollars per million tokens; None is unknown.

    Without a price of their own, cached input and reasoning cost what input and output do. `cache_write` is for what
    is kept for five minutes, or for as long as the provider keeps it; `cache_write_1h` for an hour.
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    reasoning: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier(Rates):
    """The rates of all tokens of a request that has more input tokens than `above`."""

    above: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices(Rates):
    """What a model costs, with tiers by ascending `above`; `source` and `on` are where and when this was read."""

    tiers: tuple[Tier, ...] = ()
    source: str | None = None
    on: date | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is any price."""
        return any(getattr(self, name) is not None for name in RATES)

    @property
    def origin(self) -> str:
        """The list with its date, as a bill names it."""
        source = self.source or "price list"
        return source if self.on is None else f"{source} of {self.on}"

    def of(self, input_tokens: int) -> Rates:
        """Return the rates of a request of so many input tokens, cached ones included."""
        return next((tier for tier in reversed(self.tiers) if input_tokens > tier.above), self)
