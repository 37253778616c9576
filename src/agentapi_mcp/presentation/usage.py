"""Usage as JSON."""

from typing import Literal

from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.core.usage.models import ReportedSums, UsageReport, UsageRow, UsageSums
from agentapi_mcp.presentation.output_model import OutputModel
from agentapi_mcp.presentation.values import moment, number


class ReportedOut(OutputModel):
    """Sums over what users said of conversations elsewhere, which are in no other sum."""

    interactions: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


class UsageSumsOut(OutputModel):
    """Sums over turns that have ended; `cost_nanos` is exact, in billionths of a dollar, and misses `unpriced` turns.

    `cost_usd` is null where no cost is known. Latencies are exact to a half; `minutes` is how long all turns took.
    """

    turns: int
    errors: int
    unpriced: int
    agents: int
    minutes: float
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_usd: float | None
    cost_nanos: int
    latency_p50_ms: int | None
    latency_p95_ms: int | None
    last_used_at: str | None
    reported: ReportedOut | None


class UsageGroupOut(UsageSumsOut):
    """Usage of one group; `key` is null for somebody who is gone, `label` a session's title or a member's e-mail."""

    key: str | None
    label: str | None


class UsageOut(OutputModel):
    """Usage of a period, in the result of `get_usage`; `until` is not in it, `left_out` groups only in the total."""

    since: str
    until: str
    by: str | None
    whose: Literal["own", "organization"]
    total: UsageSumsOut
    groups: list[UsageGroupOut]
    left_out: int


def usage_out(report: UsageReport) -> UsageOut:
    """Serialize usage."""
    return UsageOut(
        since=moment(report.since),
        until=moment(report.until),
        by=report.by and str(report.by),
        whose="organization" if report.whole else "own",
        total=UsageSumsOut.model_validate(sums_fields(report.total)),
        groups=[UsageGroupOut.model_validate(row_fields(row)) for row in report.rows],
        left_out=report.left_out,
    )


def row_fields(row: UsageRow) -> dict[str, object]:
    """Return the fields of a group."""
    return {"key": row.key, "label": row.label, **sums_fields(row.sums)}


def sums_fields(sums: UsageSums) -> dict[str, object]:
    """Return the fields of sums."""
    return {
        "turns": sums.turns,
        "errors": sums.errors,
        "unpriced": sums.unpriced,
        "agents": sums.agents,
        "minutes": round(sums.busy.total_seconds() / 60, 3),
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "cached_tokens": sums.cached_tokens,
        "reasoning_tokens": sums.reasoning_tokens,
        "cost_usd": number(sums.cost_usd),
        "cost_nanos": sums.cost_nanos,
        "latency_p50_ms": to_milliseconds(sums.latency(0.5)),
        "latency_p95_ms": to_milliseconds(sums.latency(0.95)),
        "last_used_at": sums.last_at and moment(sums.last_at),
        "reported": _reported_fields(sums.reported),
    }


def _reported_fields(reported: ReportedSums) -> dict[str, object] | None:
    if not reported.interactions:
        return None
    return {
        "interactions": reported.interactions,
        "input_tokens": reported.input_tokens,
        "output_tokens": reported.output_tokens,
        "cost_usd": number(reported.cost_usd),
    }
