"""Amounts and times as JSON values."""

from datetime import UTC, datetime
from decimal import Decimal


def number(amount: Decimal | None) -> float | None:
    """Return an amount as a JSON number; None stays None."""
    return None if amount is None else float(amount)


def moment(at: datetime) -> str:
    """Return a time as short as RFC 3339 has it: in UTC, to the second."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
