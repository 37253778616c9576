"""Convert durations to and from milliseconds, as stored and serialized."""

from datetime import timedelta


def to_milliseconds(duration: timedelta | None) -> int | None:
    """Convert a duration to whole milliseconds; None stays None."""
    return None if duration is None else round(duration.total_seconds() * 1000)


def from_milliseconds(count: int | None) -> timedelta | None:
    """Convert milliseconds to a duration; None stays None."""
    return None if count is None else timedelta(milliseconds=count)
