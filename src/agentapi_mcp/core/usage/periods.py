"""The periods that people and programs name: `today`, `7d`, `2026-11`; days, months and years are those of UTC."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agentapi_mcp.base.errors import InvalidRequestError

PERIODS = ("today", "yesterday", "7d", "30d", "month", "last-month", "year")
HOW = "say today, yesterday, month, last-month or year, 12h, 7d or 2w, or a day, month or year such as 2026-11"
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_AGO = re.compile(r"([1-9]\d{0,4})([hdw])", re.ASCII)
_CALENDAR = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)
_LONGEST = 40


@dataclass(frozen=True, slots=True)
class Period:
    """A period; `until` is not in it."""

    since: datetime
    until: datetime


def read_period(text: str, now: datetime, argument: str = "period") -> Period:
    """Return the period that a text names.

    Raises:
        InvalidRequestError: it names none.
    """
    found = _find(text.strip().lower(), now.astimezone(UTC)) if len(text) <= _LONGEST else None
    if found is None:
        raise InvalidRequestError(f"is no period: {HOW}.", argument=argument)
    return found


def read_bounds(since: str | None, until: str | None, now: datetime) -> tuple[datetime | None, datetime | None]:
    """Return when what two texts name begins and ends: periods, or times of ISO 8601, by default in UTC.

    A day, month or year that ends the period is in it, and so is nothing after now; `7d` means seven days ago.

    Raises:
        InvalidRequestError: one of them is neither.
    """
    begins = None if since is None else _bound(since, now, "since", lambda period: period.since)
    ends = None if until is None else _bound(until, now, "until", lambda period: period.until)
    return begins, ends


def _bound(text: str, now: datetime, argument: str, side: Callable[[Period], datetime]) -> datetime:
    said = text.strip().lower()
    if len(text) <= _LONGEST:
        ago = _ago(said, now)
        if ago is not None:
            return ago
        found = _find(said, now.astimezone(UTC))
        if found is not None:
            return side(found)
        try:
            at = datetime.fromisoformat(text.strip())
            return (at.replace(tzinfo=UTC) if at.tzinfo is None else at).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise InvalidRequestError(f"is no time: {HOW}, or a time such as 2026-11-30T12:00Z.", argument=argument)


def _ago(said: str, now: datetime) -> datetime | None:
    match = _AGO.fullmatch(said)
    return None if match is None else now - int(match[1]) * _UNITS[match[2]]


def _find(said: str, now: datetime) -> Period | None:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    month, year, day = today.replace(day=1), today.replace(month=1, day=1), timedelta(days=1)
    named = {
        "today": Period(today, today + day),
        "yesterday": Period(today - day, today),
        "month": Period(month, _after_month(month)),
        "last-month": Period((month - day).replace(day=1), month),
        "year": Period(year, year.replace(year=year.year + 1)),
    }
    if said in named:
        return named[said]
    ago = _ago(said, now)
    return _calendar(said) if ago is None else Period(ago, now)


def _calendar(said: str) -> Period | None:
    match = _CALENDAR.fullmatch(said)
    if match is None:
        return None
    try:
        begin = datetime(int(match[1]), int(match[2] or 1), int(match[3] or 1), tzinfo=UTC)
        if match[3]:
            return Period(begin, begin + timedelta(days=1))
        return Period(begin, _after_month(begin) if match[2] else begin.replace(year=begin.year + 1))
    except (ValueError, OverflowError):
        return None


def _after_month(begin: datetime) -> datetime:
    return (begin + timedelta(days=31)).replace(day=1)
