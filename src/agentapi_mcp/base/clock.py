"""The clock, injected so that tests need not wait for real time."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from typing_extensions import override


class Clock(Protocol):
    """Current time and sleeping."""

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        ...

    async def sleep(self, duration: timedelta) -> None:
        """Sleep for a duration."""
        ...


class SystemClock(Clock):
    """The system clock."""

    @override
    def now(self) -> datetime:
        return datetime.now(UTC)

    @override
    def monotonic(self) -> float:
        return time.monotonic()

    @override
    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(duration.total_seconds())  # noqa: TID251  # the one place that waits
