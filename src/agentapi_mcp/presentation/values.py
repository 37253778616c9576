"""Amounts and times as JSON values, and times for people."""

from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

from agentapi_mcp.base.far_times import FarTime

_SMALL = 0.001  # US dollars: of less than this, each nano-dollar is shown


def number(amount: Decimal | None) -> float | None:
    """Return an amount as a JSON number; None stays None."""
    return None if amount is None else float(amount)


def dollars(amount: Decimal | float) -> str:
    """Write an amount of US dollars with as many digits as it needs: a known one is not shown as zero unless it is."""
    if amount >= 1 or not amount:
        return f"${amount:.2f}"
    return f"${amount:.{6 if amount >= _SMALL else 9}f}".rstrip("0")


def moment(at: datetime) -> str:
    """Return a time as short as RFC 3339 has it: in UTC, to the second."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def utc_time(at: datetime) -> str:
    """Return a time for people elsewhere, to the second."""
    return f"{at if isinstance(at, FarTime) else at.astimezone(UTC):%Y-%m-%d %H:%M:%S UTC}"


def local_time(at: datetime, *, seconds: bool = False) -> str:
    """Return a time as the clock on the wall here shows it, to the minute, with its zone."""
    here = at
    if not isinstance(at, FarTime):
        with suppress(OverflowError):  # within a day of the last that there is
            here = at.astimezone()
    return f"{here:%Y-%m-%d %H:%M:%S %Z}" if seconds else f"{here:%Y-%m-%d %H:%M %Z}"
