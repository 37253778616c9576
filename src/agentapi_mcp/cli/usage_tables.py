"""Usage as the rows of a table, as bars, and as CSV."""

import csv
import io
from collections.abc import Sequence
from uuid import UUID

from agentapi_mcp.base.text import one_line
from agentapi_mcp.cli.terminal import prints_unicode
from agentapi_mcp.core.usage.models import UsageGroup, UsageReport, UsageRow, UsageSums
from agentapi_mcp.presentation.usage_words import dollars, name_of, seconds
from agentapi_mcp.presentation.values import moment

COLUMNS = ("TURNS", "FAILED", "TOKENS IN", "OUT", "P50", "P95", "COST", "UNPRICED")
_CSV = (
    *("key", "label", "turns", "errors", "unpriced", "agents", "minutes", "input_tokens", "output_tokens"),
    *("cached_tokens", "reasoning_tokens", "cost_usd", "latency_p50_ms", "latency_p95_ms", "last_used_at"),
    *("reported_interactions", "reported_input_tokens", "reported_output_tokens", "reported_cost_usd"),
)
# What a spreadsheet takes for the beginning of a formula, some of them also in full width.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
ROOM = 100  # columns of a terminal that has room for more than `COLUMNS`
_LONG, _SHORT = 20, 10
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def row_cells(row: UsageRow, by: UsageGroup | None) -> tuple[object, ...]:
    """Return the cells of a group: its name, and one for each of `COLUMNS`."""
    sums = row.sums
    name: object = name_of(row, by)
    if by in {UsageGroup.SESSION, UsageGroup.MEMBER} and row.key and not row.label:
        name = UUID(row.key)
    return (
        name,
        f"{sums.turns:,}",
        f"{sums.errors:,}",
        f"{sums.input_tokens:,}",
        f"{sums.output_tokens:,}",
        seconds(sums.latency(0.5)),
        seconds(sums.latency(0.95)),
        _cost(sums),
        f"{sums.unpriced:,}",
    )


def _cost(sums: UsageSums) -> str:
    if not sums.turns and sums.reported.interactions:
        return "-"  # nothing was billed here, which is not that it cost nothing
    return "unknown" if sums.cost_usd is None else dollars(sums.cost_usd)


def reported_cell(sums: UsageSums) -> str:
    """Return what users say that conversations elsewhere have cost; an empty text where there are none."""
    return dollars(sums.reported.cost_usd) if sums.reported.interactions else ""


def bars(rows: Sequence[UsageRow], width: int) -> list[str]:
    """Return a bar for each group, by cost, or by turns where nothing is known to cost; none in a narrow terminal."""
    room = _LONG if width >= 120 else _SHORT if width >= ROOM else 0  # noqa: PLR2004  # columns
    costs = [max(row.sums.cost_nanos, 0) for row in rows]
    values = costs if any(costs) else [row.sums.turns for row in rows]
    most = max(values, default=0)
    if not room or not most:
        return []
    return [_bar(value * room * 8 // most) for value in values]


def _bar(eighths: int) -> str:
    if not prints_unicode():
        return "#" * (eighths // 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def csv_text(report: UsageReport) -> str:
    """Return the groups as CSV, or the total where there are none; a text that looks like a formula is quoted so."""
    fields = csv.DictWriter(text := io.StringIO(), _CSV, extrasaction="ignore", lineterminator="\n")
    fields.writeheader()
    for row in report.rows if report.by is not None else [UsageRow(key="total", sums=report.total)]:
        fields.writerow(_csv_row(row))
    return text.getvalue()


def _csv_row(row: UsageRow) -> dict[str, object]:
    sums = row.sums
    median, slow = sums.latency(0.5), sums.latency(0.95)
    return {
        "key": _plain(row.key),
        "label": _plain(row.label),
        "turns": sums.turns,
        "errors": sums.errors,
        "unpriced": sums.unpriced,
        "agents": sums.agents,
        "minutes": f"{sums.busy.total_seconds() / 60:.3f}",
        "reported_interactions": sums.reported.interactions,
        "reported_input_tokens": sums.reported.input_tokens,
        "reported_output_tokens": sums.reported.output_tokens,
        "reported_cost_usd": f"{sums.reported.cost_usd:f}",
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "cached_tokens": sums.cached_tokens,
        "reasoning_tokens": sums.reasoning_tokens,
        "cost_usd": "" if sums.cost_usd is None else f"{sums.cost_usd:f}",
        "latency_p50_ms": "" if median is None else round(median.total_seconds() * 1000),
        "latency_p95_ms": "" if slow is None else round(slow.total_seconds() * 1000),
        "last_used_at": sums.last_at and moment(sums.last_at),
    }


def _plain(text: str | None) -> str:
    """Return a text as one line that no spreadsheet evaluates."""
    line = one_line(text or "", 500)
    return f"'{line}" if line.startswith(_FORMULA) else line
