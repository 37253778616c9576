"""Time that a test moves."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


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
