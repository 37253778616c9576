"""Usage in a terminal and in a spreadsheet."""

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.cli.outputs import aligned
from agentapi_mcp.cli.tables import cell_width
from agentapi_mcp.cli.usage_tables import COLUMNS, bars, csv_text, reported_cell, row_cells
from agentapi_mcp.core.usage.models import ReportedSums, UsageGroup, UsageReport, UsageRow, UsageSums
from agentapi_mcp.presentation.usage_words import dollars, left_out_words, name_of, sums_words

NOW = datetime(2026, 11, 30, 15, 30, tzinfo=UTC)


def row(key: str | None, nanos: int | None = 77_500, label: str | None = None, turns: int = 1) -> UsageRow:
    """Make a group."""
    unpriced = turns if nanos is None else 0
    latencies = [0] * 7 + [turns] + [0] * 16
    sums = UsageSums(turns=turns, cost_nanos=nanos or 0, unpriced=unpriced, input_tokens=12, latencies=latencies)
    return UsageRow(key=key, label=label, sums=sums)


def report(*rows: UsageRow, by: UsageGroup | None = UsageGroup.AGENT, left_out: int = 0) -> UsageReport:
    """Make a report."""
    return UsageReport(
        since=NOW - timedelta(days=7), until=NOW, by=by, whole=False, total=row("").sums, rows=rows, left_out=left_out
    )


def read_csv(text: str) -> list[dict[str, str]]:
    """Read CSV as a spreadsheet does."""
    return list(csv.DictReader(io.StringIO(text)))


@given(st.text(max_size=30))
def test_no_cell_of_a_spreadsheet_is_a_formula(text: str) -> None:
    [cells] = read_csv(csv_text(report(row(text, label=text), by=UsageGroup.SESSION)))
    for cell in (cells["key"], cells["label"]):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20SUM(A1)"]
)
def test_a_text_that_looks_like_a_formula_is_kept_as_a_text(text: str) -> None:
    [cells] = read_csv(csv_text(report(row(text))))
    assert cells["key"] == f"'{text.strip()}"


def test_a_spreadsheet_has_exact_costs_and_nothing_for_what_is_unknown() -> None:
    rows = read_csv(csv_text(report(row("droid", 10**18 + 1), row("guide", None))))
    assert [cells["cost_usd"] for cells in rows] == ["1000000000.000000001", ""]
    [total] = read_csv(csv_text(report(by=None)))
    assert (total["key"], total["turns"], total["cost_usd"]) == ("total", "1", "0.0000775")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_fits_and_has_bars_where_there_is_room(width: int) -> None:
    rows = [row("droid", 8 * 10**9), row("guide", 3 * 10**9), row("a-very-long-name-of-an-agent" * 3, 0)]
    drawn = bars(rows, width)
    assert drawn == ([] if width < 100 else ["█" * 20, "█" * 7 + "▌", ""])
    heading = ("AGENT", *COLUMNS, *([""] if drawn else []))
    cells = [(*row_cells(each, UsageGroup.AGENT), *drawn[at : at + 1]) for at, each in enumerate(rows)]
    lines = aligned(heading, cells, width).splitlines()
    assert max(map(cell_width, lines)) <= width
    assert any("$8.00" in line for line in lines)


@pytest.mark.parametrize("by", [UsageGroup.MEMBER, UsageGroup.SESSION])
def test_who_has_no_name_has_the_end_of_an_id_in_a_terminal(by: UsageGroup) -> None:
    cells = row_cells(row("01980000-0000-7000-8000-0123456789ab"), by)
    assert aligned(("MEMBER", *COLUMNS), [cells], 80).splitlines()[1].startswith("456789ab ")


def test_what_was_only_reported_has_no_bill_of_zero() -> None:
    reported = ReportedSums(interactions=2, cost_nanos=42_500_000)
    elsewhere, both = UsageSums(reported=reported), UsageSums(turns=1, reported=reported)
    cost = COLUMNS.index("COST") + 1
    assert row_cells(UsageRow(key="claude.ai", sums=elsewhere), UsageGroup.AGENT)[cost] == "-"
    assert row_cells(UsageRow(key="guide", sums=both), UsageGroup.AGENT)[cost] == "$0.00"
    assert [reported_cell(sums) for sums in (elsewhere, both, UsageSums())] == ["$0.0425", "$0.0425", ""]


def test_bars_are_by_turns_where_no_cost_is_known_and_none_where_nothing_was_used() -> None:
    assert bars([row("a", None, turns=4), row("b", None, turns=2)], 100) == ["█" * 10, "█" * 5]
    assert bars([row("a", 0, turns=0)], 100) == []


def test_words_say_what_is_unknown_and_who_is_gone() -> None:
    assert sums_words(row("x", None).sums).startswith("1 turn, unknown cost, ")
    assert name_of(row(None), UsageGroup.MEMBER) == "somebody who is gone"
    assert name_of(row(""), UsageGroup.MODEL) == "no model"
    assert left_out_words(report()) is None
    assert left_out_words(report(left_out=1)) == (
        "1 agent that cost less is in the total alone; a higher limit tells them."
    )
    assert "2 days older are" in str(left_out_words(report(by=UsageGroup.DAY, left_out=2)))


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        ("0", "$0.00"),
        ("0.0000775", "$0.0000775"),
        ("1234.5", "$1,234.50"),
        ("-0.25", "-$0.25"),
        ("1E-9", "$0.000000001"),
    ],
)
def test_an_amount_is_written_exactly(amount: str, written: str) -> None:
    assert dollars(Decimal(amount)) == written
