"""Times that a `datetime` cannot hold: Postgres keeps the years -4712 to 294276, and infinities."""

from datetime import UTC, datetime, timedelta
from typing import Self

from typing_extensions import override

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EARLIEST, _LATEST = -(2**63), 2**63 - 1  # Postgres's infinities


class FarTime(datetime):
    """The nearest `datetime` to such a time; formatted as words. `microseconds` since 2000 is the time itself."""

    microseconds: int

    def __new__(cls, microseconds: int) -> Self:
        """Make the time of Postgres's number.

        Raises:
            ValueError: it is no number of 64 bits.
        """
        if not _EARLIEST <= microseconds <= _LATEST:
            raise ValueError("a time has 64 bits")
        nearest = (1, 1, 1) if microseconds < 0 else (9999, 12, 31, 23, 59, 59, 999_999)
        made = super().__new__(cls, *nearest, tzinfo=UTC)
        made.microseconds = microseconds
        return made

    @override
    def strftime(self, format: str) -> str:  # its name in the standard library
        if self.microseconds in {_EARLIEST, _LATEST}:
            return "no date"
        return "before the year 1" if self.microseconds < 0 else "after the year 9999"

    @override
    def __format__(self, fmt: str) -> str:
        return self.strftime(fmt)


FIRST, LAST = FarTime(_EARLIEST), FarTime(_LATEST)


def time_of(microseconds: int) -> datetime:
    """Return the time of so many microseconds since 2000."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return FarTime(microseconds)


def microseconds_of(at: datetime) -> int:
    """Return the exact microseconds since 2000 of a time with a zone."""
    return at.microseconds if isinstance(at, FarTime) else (at - _EPOCH) // _MICROSECOND
