"""Usage: which period is asked for, and what is said of one that makes no sense."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import override

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.usage.models import UsageGroup, UsageQuery, UsageRows, UsageSpan, UsageSums
from agentapi_mcp.core.usage.periods import PERIODS, read_bounds, read_period
from agentapi_mcp.core.usage.ports import UsageStore
from agentapi_mcp.core.usage.usage import Usage, midnight, split
from tests.support.clocks import ManualClock

NOW = datetime(2026, 11, 30, 15, 30, tzinfo=UTC)
DAY = timedelta(days=1)
ANN = Principal(UserId(new_id()), OrgId(new_id()))


@dataclass
class Asked(UsageStore):
    """Keeps what it was asked for, and knows of nothing."""

    spans: list[UsageSpan] = field(default_factory=list[UsageSpan])

    @override
    async def sums(
        self, principal: Principal, span: UsageSpan, by: UsageGroup | None, *, whole: bool, limit: int
    ) -> UsageRows:
        self.spans.append(span)
        return UsageRows(total=UsageSums(), rows=(), groups=0)


@given(st.integers(0, 10**12), st.integers(1, 10**12))
@example(0, 86_400 * 10**6)
@example(1, 86_400 * 10**6)
def test_the_parts_of_a_period_are_the_period_and_never_meet(begin: int, length: int) -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=begin)
    until = since + timedelta(microseconds=length)
    span = split(since, until, datetime(2030, 1, 1, tzinfo=UTC))
    days = [datetime.combine(day, datetime.min.time(), UTC) for day in span.days]
    parts = [(since, span.head_ends), (days[0], days[1]), (span.tail_begins, until)]
    covered = [(first, last) for first, last in parts if first < last]
    assert (covered[0][0], covered[-1][1]) == (since, until)
    assert all(before[1] == after[0] for before, after in pairwise(covered))
    assert all(last - first < DAY for first, last in (parts[0], parts[2]))


def test_a_period_that_goes_on_takes_today_whole() -> None:
    span = split(NOW - timedelta(hours=40), NOW, NOW)
    assert span.days == ((NOW - DAY + timedelta(days=0)).date(), (NOW + 2 * DAY).date())
    assert span.tail_begins == span.until


@pytest.mark.parametrize(
    ("query", "argument"),
    [
        (UsageQuery(since=NOW + timedelta(seconds=1)), "since"),
        (UsageQuery(since=NOW, until=NOW), "until"),
        (UsageQuery(since=NOW - DAY, until=NOW - 2 * DAY), "until"),
        (UsageQuery(since=NOW - DAY, limit=0), "limit"),
        (UsageQuery(since=NOW - DAY, limit=1001), "limit"),
    ],
)
async def test_a_period_that_makes_no_sense_is_refused_before_anything_is_read(
    query: UsageQuery, argument: str
) -> None:
    store = Asked()
    with pytest.raises(InvalidRequestError) as caught:
        await Usage(store, ManualClock(NOW)).report(ANN, query)
    assert (caught.value.argument, store.spans) == (argument, [])


async def test_what_lies_before_all_time_or_after_now_is_cut_to_what_there_can_be() -> None:
    store = Asked()
    far = datetime.max.replace(tzinfo=UTC)
    report = await Usage(store, ManualClock(NOW)).report(
        ANN, UsageQuery(since=datetime.min.replace(tzinfo=UTC), until=far)
    )
    assert (report.since.year, report.until) == (2000, NOW)
    [span] = store.spans
    assert span.days[1] == (NOW + 2 * DAY).date()


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("today", "2026-11-30", "2026-12-01"),
        ("Yesterday", "2026-11-29", "2026-11-30"),
        ("7d", "2026-11-23T15:30", "2026-11-30T15:30"),
        ("12h", "2026-11-30T03:30", "2026-11-30T15:30"),
        ("2w", "2026-11-16T15:30", "2026-11-30T15:30"),
        ("month", "2026-11-01", "2026-12-01"),
        ("last-month", "2026-10-01", "2026-11-01"),
        ("year", "2026-01-01", "2027-01-01"),
        ("2026-02", "2026-02-01", "2026-03-01"),
        ("2025-12", "2025-12-01", "2026-01-01"),
        ("2024", "2024-01-01", "2025-01-01"),
        (" 2024-02-29 ", "2024-02-29", "2024-03-01"),
    ],
)
def test_a_period_is_that_of_the_calendar_in_utc(text: str, since: str, until: str) -> None:
    period = read_period(text, NOW.astimezone())
    assert [period.since, period.until] == [datetime.fromisoformat(each).replace(tzinfo=UTC) for each in (since, until)]


def test_each_name_that_is_offered_is_a_period() -> None:
    assert all(read_period(name, NOW).since < NOW for name in PERIODS)


@pytest.mark.parametrize(
    "text",
    ["", "0d", "7", "2026-13", "2026-02-30", "0000", "9999", "\u0667d", "7 d", "tomorrow", "7d" * 30, "-7d", "\0"],
)
def test_what_is_no_period_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="2026-11"):
        read_period(text, NOW)


def test_bounds_are_times_or_periods_of_which_the_last_is_whole() -> None:
    def bounds(since: str, until: str) -> tuple[datetime | None, datetime | None]:
        return read_bounds(since, until, NOW)

    assert bounds("2026-10-30", "2026-10-31") == (
        datetime(2026, 10, 30, tzinfo=UTC),
        datetime(2026, 11, 1, tzinfo=UTC),
    )
    assert bounds("7d", "2d") == (NOW - 7 * DAY, NOW - 2 * DAY)
    assert bounds("2026-11-30T12:00", "2026-11-30T12:00+01:00") == (
        datetime(2026, 11, 30, 12, tzinfo=UTC),
        datetime(2026, 11, 30, 11, tzinfo=UTC),
    )
    assert read_bounds(None, None, NOW) == (None, None)
    for wrong in (("soon", None), (None, "0001-01-01T00:00+23:00")):
        with pytest.raises(InvalidRequestError, match="is no time"):
            read_bounds(*wrong, NOW)


def test_what_nobody_knows_is_never_zero() -> None:
    unknown, some = UsageSums(turns=2, unpriced=2), UsageSums(turns=3, unpriced=1, cost_nanos=5, errors=1)
    assert (unknown.cost_usd, unknown.cost_per_turn_usd, unknown.latency(0.5)) == (None, None, None)
    assert (some.cost_usd, some.cost_per_turn_usd) == (Decimal("5E-9"), Decimal("2E-9"))
    assert some.success_rate == pytest.approx(2 / 3)
    assert (UsageSums().cost_usd, UsageSums().success_rate) == (Decimal(0), None)


@given(st.lists(st.integers(0, 50), min_size=24, max_size=24), st.floats(0.01, 1))
def test_a_latency_lies_in_the_bucket_of_its_rank(counts: list[int], share: float) -> None:
    found = UsageSums(latencies=counts).latency(share)
    if not sum(counts):
        assert found is None
        return
    assert found is not None
    index, left = 0, share * sum(counts)
    while left > counts[index] and index < 23:
        left, index = left - counts[index], index + 1
    least = 0 if not index else 100 * 1.5 ** (index - 1)
    assert round(least) <= found / timedelta(milliseconds=1) <= round(100 * 1.5**index)


def test_a_day_begins_at_midnight_in_utc() -> None:
    assert midnight(datetime.fromisoformat("2026-11-30T01:00+02:00")) == datetime(2026, 11, 29, tzinfo=UTC)
