"""The list of prices that comes with the program: what it may say, and what is found in it."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.ids import ModelRowId
from agentapi_mcp.base.money import Prices, Tier
from agentapi_mcp.core.catalogue.models import ModelRow
from agentapi_mcp.core.catalogue.price_list import (
    COLUMNS,
    FILE,
    PriceList,
    context_window_of,
    parse_prices,
    prices_of,
    shipped_prices,
)
from tests.support.price_facts import faults_of

HEAD = f"a-list,1.0,2026-11-30\n{','.join(COLUMNS)}\n"
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def row(model: str = "m", *, provider: str = "vendor", window: str = "1000", **cells: str) -> str:
    """Write a row: of one dollar for input and two for output, at any time and size, unless it says otherwise."""
    known = {"provider": provider, "model": model, "input": "1", "output": "2", "context_window": window, **cells}
    return ",".join(known.get(name.rstrip("_"), known.get(f"{name}_", "")) for name in COLUMNS) + "\n"


def listed(*rows: str) -> PriceList:
    text = HEAD + "".join(rows)
    assert faults_of(text) == []
    return parse_prices(text)


def cost(prices: PriceList, model: str, at: datetime = NOON, provider: str = "vendor") -> Decimal | None:
    found = prices.prices(provider, model, at)
    return None if found is None else found.input


# --- what it may say


def test_the_list_that_is_shipped_can_be() -> None:
    assert faults_of(FILE.read_text("utf-8")) == []
    assert len(shipped_prices().rows) > 1_000


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (row(input="-1"), "line 3, vendor m: input must be a price from 0 to 1,000,000, and not '-1'"),
        (row(output="inf"), "line 3, vendor m: output must be a price"),
        (row(cached_input="nan"), "line 3, vendor m: cached_input must be a price"),
        (row(cache_write="cheap"), "line 3, vendor m: cache_write must be a price"),
        (row(reasoning="1e7"), "line 3, vendor m: reasoning must be a price"),
        (row(input=""), "line 3, vendor m: input must be a price"),
        (row(output=""), "line 3, vendor m: output must be a price"),
        (row(window="0"), "line 3, vendor m: context_window must be a positive count"),
        (row(above="-5"), "line 3, vendor m: above must be a positive count"),
        (row(from_="2026-13-01"), "line 3, vendor m: from must be a day, and not '2026-13-01'"),
        (row(from_="20261101"), "line 3, vendor m: from must be a day"),
        (row(hours="16:30-00:30"), "line 3, vendor m: hours must be two times of one day"),
        (row(hours="noon"), "line 3, vendor m: hours must be two times of one day"),
        (row("M"), "line 3, vendor M: it must have a provider, and a model in lower case"),
        (row(provider=""), "line 3,  m: it must have a provider"),
        ("vendor,m\n", "line 3: it has 2 cells"),
        (row() + row("n") + row(), "line 5, vendor m: the rows of this model do not stand together"),
        (row() + row(), "line 3, vendor m: the tiers do not ascend ([0, 0]), so that a request has two prices"),
        (row(above="5"), "line 3, vendor m: requests up to 5 tokens have no price"),
        (row() + row(above="9") + row(above="5"), "the tiers do not ascend ([0, 9, 5])"),
        (row(until="2026-02-01"), "line 3, vendor m: valid until 2026-02-01, and a gap after it"),
        (row(from_="2026-02-01"), "line 3, vendor m: valid from 2026-02-01, a gap at ever"),
        (
            row(until="2026-01-01") + row(from_="2026-02-01"),
            "line 4, vendor m: valid from 2026-02-01, a gap at 2026-01-01",
        ),
        (
            row(until="2026-02-01") + row(from_="2026-01-01"),
            "line 4, vendor m: valid from 2026-01-01, an overlap at 2026-02-01",
        ),
        (row() + row(from_="2026-01-01"), "line 4, vendor m: valid from 2026-01-01, an overlap at ever"),
        (
            row(until="2026-02-01") + row(from_="2026-02-01", until="2026-01-01") + row(from_="2026-01-01"),
            "line 4, vendor m: valid until 2026-01-01, which is not after 2026-02-01",
        ),
        (row(hours="00:00-16:30"), "line 3, vendor m: valid by hour until 16:30, and a gap after it"),
        (
            row(hours="00:00-16:30") + row(hours="16:00-24:00"),
            "line 4, vendor m: valid by hour from 16:00, an overlap at 16:30",
        ),
    ],
)
def test_a_list_with_a_hole_or_without_sense_is_refused_by_the_name_of_the_row(rows: str, said: str) -> None:
    assert any(fault.startswith(said) or said in fault for fault in faults_of(HEAD + rows))


@pytest.mark.parametrize(
    ("text", "said"), [(HEAD.replace(",1.0", ""), "line 1: it must be"), (HEAD.replace("above", "over"), "line 2: the")]
)
def test_a_list_without_its_head_is_refused(text: str, said: str) -> None:
    assert faults_of(text)[0].startswith(said)


DAYS = st.lists(st.dates(date(2024, 1, 1), date(2028, 1, 1)), unique=True, min_size=1, max_size=5).map(sorted)


@given(DAYS, st.data())
def test_every_moment_has_one_price_and_a_list_of_which_a_row_is_missing_or_twice_is_refused(
    days: list[date], data: st.DataObject
) -> None:
    bounds = ["", *(day.isoformat() for day in days), ""]
    rows = [row(from_=since, until=until, input=str(number)) for number, (since, until) in enumerate(pairwise(bounds))]
    prices = listed(*rows)
    at = data.draw(st.datetimes(datetime(2023, 1, 1), datetime(2029, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  # given beside it
    assert cost(prices, "m", at) == sum(day <= at.date() for day in days)
    number = data.draw(st.integers(0, len(rows) - 1))
    assert faults_of(HEAD + "".join(rows[:number] + rows[number + 1 :])) or len(rows) == 1
    assert faults_of(HEAD + "".join([*rows[: number + 1], *rows[number:]]))


# --- what is found


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("small-1", 1),
        ("SMALL-1", 1),  # no provider has two models that differ in that
        ("small-1-2024-05-13", 7),
        ("small-1-2026-05-13", None),  # one of another day may cost something else
        ("small-1-20260513", None),
        ("small-1@20260513", None),
        ("small-1-0513", None),
        ("small-1-latest", None),
        ("small-1-preview-2026-05-13", None),
        ("small", None),
        ("small-12", None),
        ("vendor/small-1", None),
        ("", None),
    ],
)
def test_a_model_is_found_by_its_exact_id_and_by_no_other(model: str, found: int | None) -> None:
    prices = listed(row("small-1"), row("small-1-2024-05-13", input="7"))
    assert cost(prices, model) == found


@pytest.mark.parametrize(
    ("provider", "is_found"),
    [("google", True), ("Gemini ", True), ("vertex-ai", True), ("vertex", True), ("goog", False)],
)
def test_a_provider_is_found_by_the_names_that_this_program_gives_it(provider: str, *, is_found: bool) -> None:
    prices = listed(row("gemini-x", provider="google"))
    assert (cost(prices, "gemini-x", provider=provider) is not None) is is_found


def test_a_day_begins_in_utc() -> None:
    prices = listed(row(until="2026-12-01"), row(from_="2026-12-01", input="5"))
    east = timezone(timedelta(hours=9))
    assert cost(prices, "m", datetime(2026, 12, 1, 8, 59, 59, tzinfo=east)) == 1
    assert cost(prices, "m", datetime(2026, 12, 1, 9, 0, 0, tzinfo=east)) == 5


@pytest.mark.parametrize(
    ("time", "price"),
    [("00:00:00", 1), ("00:29:59", 1), ("00:30:00", 3), ("16:29:59", 3), ("16:30:00", 1), ("23:59:59", 1)],
)
def test_a_price_by_the_hour_holds_from_its_first_minute_until_before_its_last(time: str, price: int) -> None:
    prices = listed(row(hours="00:00-00:30"), row(hours="00:30-16:30", input="3"), row(hours="16:30-24:00"))
    assert cost(prices, "m", datetime.fromisoformat(f"2026-11-30T{time}+00:00")) == price


def test_rows_of_one_time_are_tiers_and_every_column_is_read() -> None:
    prices = listed(
        row(cached_input="0.1", cache_write="1.25", cache_write_1h="2", reasoning="3"), row(above="200000", input="4")
    )
    assert prices.prices("vendor", "m", NOON) == Prices(
        input=Decimal(1),
        output=Decimal(2),
        cached_input=Decimal("0.1"),
        cache_write=Decimal("1.25"),
        cache_write_1h=Decimal(2),
        reasoning=Decimal(3),
        tiers=(Tier(above=200_000, input=Decimal(4), output=Decimal(2)),),
        source="a-list",
        on=date(2026, 11, 30),
    )
    assert prices.context_window("vendor", "m") == 1_000


# --- whose price counts

ROW = ModelRow(
    id=ModelRowId(UUID(int=1)),
    name="opus",
    model_id="claude-opus-4-5-20251101",
    provider="anthropic",
    display_name=None,
    description=None,
    enabled=True,
    context_window=None,
    max_output_tokens=None,
    prices=Prices(),
)


def test_a_model_without_a_price_has_that_of_the_list_which_is_named_with_its_day() -> None:
    prices = prices_of(ROW, NOON)
    assert (prices.input, prices.output, prices.cache_write) == (5, 25, Decimal("6.25"))
    assert prices.origin == f"genai-prices of {shipped_prices().on}"
    assert context_window_of(ROW) == 200_000


def test_a_row_with_any_price_wins_whole_and_nothing_of_the_list_is_mixed_in() -> None:
    own = Prices(input=Decimal(0), source="our contract")
    assert prices_of(replace(ROW, prices=own, context_window=7), NOON) is own
    assert context_window_of(replace(ROW, context_window=7)) == 7


def test_what_no_list_has_stays_unknown() -> None:
    nobodys = replace(ROW, provider="house", prices=Prices(source="somewhere"))
    assert prices_of(nobodys, NOON) == Prices(source="somewhere")
    assert context_window_of(nobodys) is None


def test_the_list_is_not_read_before_a_price_is_asked_for() -> None:
    look = (
        "from agentapi_mcp.app import startup; from agentapi_mcp.core.catalogue.price_list import shipped_prices; "
        "print(startup is not None, shipped_prices.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True, timeout=60)  # noqa: S603  # ours
    assert done.stdout.split() == ["True", "0"]
