"""Find the period that a question about costs names."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agentapi_mcp.base.text import number_of

_DAY = timedelta(days=1)
_UNITS = {"hour": timedelta(hours=1), "day": _DAY, "week": 7 * _DAY, "month": 30 * _DAY}
_RECENT = re.compile(r"\b(?:last|past) (\d{1,4}) (hour|day|week|month)s?\b")
_THIS = re.compile(r"\b(?:this|current) (week|month|year)\b|\b(?:last|past|previous) (week|month|year)\b")
_ALL = re.compile(r"\b(so far|in total|altogether|in all|ever|overall|all time|until now)\b")
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """A period by calendar in UTC, as it is called in a sentence; `until` is not in it."""

    name: str
    since: datetime
    until: datetime


def find_period(text: str, now: datetime) -> Period | None:
    """Return the period that a question names, None if it names none."""
    lowered, now = " ".join(text.lower().split()), now.astimezone(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if re.search(r"\btoday\b", lowered):
        return Period("Today", today, now)
    if re.search(r"\byesterday\b", lowered):
        return Period("Yesterday", today - _DAY, today)
    recent = _RECENT.search(lowered)
    if recent is not None:
        number = int(recent[1])
        since = max(_BEGINNING, now - min(number, 9_999) * _UNITS[recent[2]])
        return Period(f"In the last {number_of(number, recent[2])}", since, now)
    named = _THIS.search(lowered)
    if named is not None:
        begin = _begin(named[1] or named[2], today)
        if named[1]:
            return Period(f"This {named[1]}", begin, now)
        return Period(f"Last {named[2]}", _begin(named[2], begin - _DAY), begin)
    return Period("Altogether", _BEGINNING, now) if _ALL.search(lowered) else None


def this_month(now: datetime) -> Period:
    """Return the current month."""
    now = now.astimezone(UTC)
    return Period("This month", _begin("month", now.replace(hour=0, minute=0, second=0, microsecond=0)), now)


def _begin(unit: str, day: datetime) -> datetime:
    match unit:
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case _:
            return day.replace(month=1, day=1)
