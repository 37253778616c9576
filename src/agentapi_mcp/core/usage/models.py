"""Models of usage: sums of a period, and of the groups that it is told by."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

MOST_GROUPS, USUAL_GROUPS = 1000, 100
_NANOS = Decimal(1_000_000_000)
# The upper bounds of the buckets of agentapi.latency_bucket (0020_ledger.sql) in milliseconds; the last has none.
_FIRST_BOUND, _RATIO = 100.0, 1.5


class UsageGroup(StrEnum):
    """What usage is told by; a day is one in UTC."""

    AGENT = "agent"
    MODEL = "model"
    PROVIDER = "provider"
    DAY = "day"
    SESSION = "session"
    MEMBER = "member"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which usage is asked for, and how it is told; `until` is not in the period, and None is now.

    It is the caller's own, or that of the `whole` organisation, as usage by member always is. At most `limit` groups
    are told.
    """

    since: datetime
    until: datetime | None = None
    by: UsageGroup | None = None
    whole: bool = False
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSpan:
    """A period in the parts that the store reads: whole `days` in UTC, and the moments before and after them.

    The last of the days is not in it. What is before them ends at `head_ends`, what is after them begins at
    `tail_begins`; any part may be empty. One `is_open` that has no end before now.
    """

    since: datetime
    until: datetime
    days: tuple[date, date]
    head_ends: datetime
    tail_begins: datetime
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedSums:
    """Sums over what users say of conversations elsewhere; nobody has billed them here."""

    interactions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0

    @property
    def cost_usd(self) -> Decimal:
        """The exact sum of the costs that were said, in US dollars."""
        return Decimal(self.cost_nanos) / _NANOS


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSums:
    """Sums over turns that have ended; what is unknown is missing in the sums, and never zero by itself.

    `errors` are turns that failed or were interrupted, `unpriced` those whose cost nobody knows, `agents` is how many
    different ones there were, and `busy` how long all turns took together. `latencies` counts turns by how long they
    took, in the buckets of the store. `reported` is in none of the other numbers but `agents` and `last_at`.
    """

    turns: int = 0
    errors: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int = 0
    agents: int = 0
    busy: timedelta = timedelta(0)
    last_at: datetime | None = None
    latencies: Sequence[int] = ()
    reported: ReportedSums = ReportedSums()

    @property
    def cost_usd(self) -> Decimal | None:
        """The exact sum of the costs that are known, in US dollars; None where none of them is."""
        nothing_known = self.turns > 0 and self.unpriced >= self.turns and not self.cost_nanos
        return None if nothing_known else Decimal(self.cost_nanos) / _NANOS

    @property
    def cost_per_turn_usd(self) -> Decimal | None:
        """What a turn whose cost is known has cost on average, to the nano-dollar; None without such turns."""
        priced = self.turns - self.unpriced
        return (Decimal(self.cost_nanos) / priced).quantize(Decimal(1)) / _NANOS if priced > 0 else None

    @property
    def success_rate(self) -> float | None:
        """The share of turns that neither failed nor were interrupted; None without turns."""
        return (self.turns - self.errors) / self.turns if self.turns > 0 else None

    def latency(self, share: float) -> timedelta | None:
        """Return how long this share of the turns took at most, exact to a bucket; None where it is not known."""
        total = sum(self.latencies)
        if not total:
            return None
        left, below = share * total, 0.0
        for index, count in enumerate(self.latencies):
            bound = _FIRST_BOUND * _RATIO**index
            if count and left <= count:
                # The last bucket has no end, so nothing more is known than where it begins.
                inside = 0.0 if index + 1 == len(self.latencies) else left / count
                return timedelta(milliseconds=round(below + (bound - below) * inside))
            left, below = left - count, bound
        return timedelta(milliseconds=round(below))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Usage of one group: `key` is its name, or the id of the session or user; None where nobody knows it any more.

    `label` is the title of a session of the caller, or the e-mail address of a member.
    """

    key: str | None
    label: str | None = None
    sums: UsageSums


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRows:
    """What the store has added up: all of the period, its greatest groups, and how many groups there are."""

    total: UsageSums
    rows: tuple[UsageRow, ...]
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Usage of a period: all of it, and the groups, by cost or by day; `left_out` groups are in the total alone."""

    since: datetime
    until: datetime
    by: UsageGroup | None
    whole: bool
    total: UsageSums
    rows: tuple[UsageRow, ...]
    left_out: int
