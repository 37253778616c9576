"""Durations in milliseconds."""

from datetime import timedelta

from agentapi_mcp.base.durations import from_milliseconds, to_milliseconds


def test_a_duration_is_whole_milliseconds_and_the_unknown_stays_unknown() -> None:
    assert to_milliseconds(timedelta(seconds=1, microseconds=1600)) == 1002
    assert from_milliseconds(1002) == timedelta(seconds=1.002)
    assert to_milliseconds(None) is None
    assert from_milliseconds(None) is None
    assert (to_milliseconds(timedelta(0)), from_milliseconds(0)) == (0, timedelta(0))
