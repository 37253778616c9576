"""Time that a test moves."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from typing_extensions import override

from agentapi_mcp.base.clock import SystemClock


@dataclass
class ManualClock:
    """Time that passes when the test says so, or when somebody waits."""

    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    seconds: float = 0.0

    def now(self) -> datetime:
        """Tell the time of day."""
        return self.at + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Tell the seconds so far."""
        return self.seconds

    async def sleep(self, duration: timedelta) -> None:
        """Let the duration be over at once."""
        self.advance(duration)

    def advance(self, duration: timedelta) -> None:
        """Move on."""
        self.seconds += duration.total_seconds()


@dataclass
class SteppedClock(ManualClock):
    """Time for one task, which waits until the test ends its wait."""

    waits: "asyncio.Queue[timedelta]" = field(default_factory=asyncio.Queue[timedelta])
    ends: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    @override
    async def sleep(self, duration: timedelta) -> None:
        """Wait for the test."""
        self.waits.put_nowait(duration)
        await self.ends.acquire()
        self.advance(duration)

    async def next_wait(self) -> timedelta:
        """Wait until the task waits, and return for how long."""
        return await self.waits.get()

    def end_wait(self) -> None:
        """Let the wait be over."""
        self.ends.release()


@dataclass
class LaterClock(SystemClock):
    """The time of day, and what a test adds to it."""

    later: timedelta = timedelta()

    @override
    def now(self) -> datetime:
        """Tell the time of day."""
        return datetime.now(UTC) + self.later

    @override
    def monotonic(self) -> float:
        """Tell the seconds so far."""
        return time.monotonic() + self.later.total_seconds()


class QuickClock(SystemClock):
    """Time as it is, in which waiting is a hundred times shorter."""

    @override
    async def sleep(self, duration: timedelta) -> None:
        """Wait less."""
        await super().sleep(duration / 100)
