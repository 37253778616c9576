"""Time, injected, so that no test waits for it."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Time, injected, so that no test waits for it."""

    def now(self) -> datetime:
        """Tell the time of day, in UTC."""
        ...

    def monotonic(self) -> float:
        """Tell seconds that never go back."""
        ...

    async def sleep(self, duration: timedelta) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        """Tell the time of day, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Tell seconds that never go back."""
        return time.monotonic()

    async def sleep(self, duration: timedelta) -> None:
        """Wait."""
        await asyncio.sleep(duration.total_seconds())  # noqa: TID251  # the one place that waits
