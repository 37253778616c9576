"""Sums of usage in words and as columns of a table; what is unknown is called so, and is never zero."""

from datetime import timedelta
from decimal import Decimal

from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.base.text import number_of
from agentapi_mcp.core.usage.models import UsageGroup, UsageReport, UsageRow, UsageSums
from agentapi_mcp.presentation.values import utc_time

GONE = "somebody who is gone"
_NAMELESS = {UsageGroup.MODEL: "no model", UsageGroup.PROVIDER: "no provider", UsageGroup.MEMBER: GONE}


def dollars(amount: Decimal) -> str:
    """Write an exact amount of US dollars: cents at least, and no zeros after those."""
    whole, _, rest = f"{amount:f}".partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}${int(digits):,}.{rest.rstrip('0'):0<2}"


def cost_words(sums: UsageSums) -> str:
    """Describe a cost, and how many turns are missing in it."""
    cost = sums.cost_usd
    if cost is None:
        return "unknown cost"
    missing = f" and {number_of(sums.unpriced, 'turn')} of unknown cost" if sums.unpriced else ""
    return f"{dollars(cost)}{missing}"


def seconds(duration: timedelta | None) -> str:
    """Write how long an answer took; an empty text where nobody knows."""
    return "" if duration is None else f"{duration.total_seconds():.1f} s"


def sums_words(sums: UsageSums) -> str:
    """Describe sums in a line."""
    parts = [number_of(sums.turns, "turn"), cost_words(sums)]
    if sums.errors:
        parts.append(f"{sums.errors:,} failed")
    if sums.input_tokens or sums.output_tokens:
        parts.append(f"{number_of(sums.input_tokens, 'token')} in, {sums.output_tokens:,} out")
    if sums.reported.interactions:
        said = f"{dollars(sums.reported.cost_usd)} by what users say"
        parts.append(f"and elsewhere {number_of(sums.reported.interactions, 'conversation')}, {said}")
    return ", ".join([*parts, *_latency_words(sums)])


def _latency_words(sums: UsageSums) -> list[str]:
    median, slow = sums.latency(0.5), sums.latency(0.95)
    if median is None or slow is None:
        return []
    return [f"{to_milliseconds(median)} ms at p50, {to_milliseconds(slow)} ms at p95"]


def agent_usage_words(sums: UsageSums, days: int) -> str:
    """Describe how an agent was used lately."""
    rate, cost = sums.success_rate, sums.cost_per_turn_usd
    if rate is None:
        return f"not used in the last {number_of(days, 'day')}"
    parts = [number_of(sums.turns, "turn"), cost_words(sums), *_latency_words(sums), f"success rate {round(rate, 4)}"]
    if cost is not None:
        parts.append(f"{dollars(cost)} a turn")
    return f"last {number_of(days, 'day')}: {', '.join(parts)}"


def name_of(row: UsageRow, by: UsageGroup | None) -> str:
    """Return what a group is called: the title of a session, the address of a member, else its name or id."""
    if row.label:
        return row.label
    return row.key or (_NAMELESS.get(by, "-") if by else "-")


def period_words(report: UsageReport) -> str:
    """Describe the period, and whose usage it is."""
    whose = "Everybody's usage" if report.whole else "Your usage"
    return f"{whose} from {utc_time(report.since)} to {utc_time(report.until)}"


def left_out_words(report: UsageReport) -> str | None:
    """Say how many groups are not told; None where all are."""
    if not report.left_out or report.by is None:
        return None
    which = "older" if report.by is UsageGroup.DAY else "that cost less"
    verb = "is" if report.left_out == 1 else "are"
    groups = number_of(report.left_out, f"{report.by}")
    return f"{groups} {which} {verb} in the total alone; a higher limit tells them."
