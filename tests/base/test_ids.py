"""Ids, and the times at which there are some."""

import pytest

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.ids import check_clock


def test_a_time_before_1970_is_refused() -> None:
    check_clock(0)
    for seconds in (-0.001, -3_155_760_000):
        with pytest.raises(ConfigurationError, match="before 1970"):
            check_clock(seconds)
