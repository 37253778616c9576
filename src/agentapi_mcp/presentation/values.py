"""Amounts and times as JSON values."""

from datetime import datetime
from decimal import Decimal


def number(amount: Decimal | None) -> float | None:
    """Return an amount as a JSON number; None stays None."""
    return None if amount is None else float(amount)


def moment(at: datetime | None) -> str | None:
    """Return a time in ISO 8601; None stays None."""
    return at.isoformat() if at else None
