"""Whether the store can be reached, and for how long it could be without a break."""

import asyncio
from datetime import datetime, timedelta

from agentapi_mcp.base.clock import Clock


class StoreWatch:
    """How long this process has had the store without a break.

    A lease measures its owner only while the store can be reached: after an outage the leases of all owners are over,
    although they live. So nobody settles a turn of others before having had the store for one lease. A break is a
    failure, a pause of this process, and a jump of the store's clock, each longer than `gap`.
    """

    def __init__(self, clock: Clock, gap: timedelta) -> None:
        self.gap = gap
        self.seen_at: datetime | None = None  # by the store's clock
        self._clock = clock
        self._seen = 0.0
        self._since: float | None = None
        self._up = asyncio.Event()
        self._down = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether the last attempt reached the store."""
        return not self._down.is_set()

    def seen(self, at: datetime) -> None:
        """Note that the store answered, and the time of its clock."""
        now, gap = self._clock.monotonic(), self.gap
        if (
            self._since is None
            or self.seen_at is None
            or now - self._seen > gap.total_seconds()
            or abs(at - self.seen_at) > gap
        ):
            self._since = now
        self._seen, self.seen_at = now, at
        self.reached()

    def reached(self) -> None:
        """Note that the store answered some other request."""
        self._down.clear()
        self._up.set()

    def failed(self) -> None:
        """Note that the store could not be reached."""
        self._since = None
        self._up.clear()
        self._down.set()

    def had_for(self, duration: timedelta) -> bool:
        """Return whether the store could be reached for this long without a break."""
        return self._since is not None and self._clock.monotonic() - self._since >= duration.total_seconds()

    async def until_up(self) -> None:
        """Wait until the store is reached again."""
        await self._up.wait()

    async def until_down(self) -> None:
        """Wait until the store cannot be reached."""
        await self._down.wait()
