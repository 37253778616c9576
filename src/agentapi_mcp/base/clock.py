"""The clock, injected so that tests need not wait for real time."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


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


class SystemClock:
    """The system clock."""

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    async def sleep(self, duration: timedelta) -> None:
        """Sleep for a duration."""
        await asyncio.sleep(duration.total_seconds())  # noqa: TID251  # the one place that waits
