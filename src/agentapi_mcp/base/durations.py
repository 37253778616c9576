"""Durations as whole milliseconds, as tables and answers write them."""

from datetime import timedelta


def to_milliseconds(duration: timedelta | None) -> int | None:
    """Return a duration in whole milliseconds; what is unknown stays unknown."""
    return None if duration is None else round(duration.total_seconds() * 1000)


def from_milliseconds(count: int | None) -> timedelta | None:
    """Return the duration of so many milliseconds; what is unknown stays unknown."""
    return None if count is None else timedelta(milliseconds=count)
