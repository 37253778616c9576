"""Monthly partitions of the audit log: made ahead, and dropped after their retention."""

from collections.abc import Awaitable, Callable, Sized
from datetime import datetime, timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.core.audit.ports import AuditStore

Prune = Callable[[datetime], Awaitable[Sized]]


class AuditPartitions:
    """The partitions of the log; `prune` drops and returns those before a moment, if this process may do so."""

    def __init__(self, store: AuditStore, clock: Clock, retention: timedelta, prune: Prune | None = None) -> None:
        self._store = store
        self._clock = clock
        self._retention = retention
        self._prune = prune

    async def maintain(self) -> int:
        """Create the partitions of this month and the next, drop those past their retention, and return how many.

        Raises:
            StoreError: it failed; new events go to the default partition.
        """
        now = self._clock.now()
        await self._store.ensure_partitions(now)
        before = now - self._retention
        if self._prune is None or not await self._store.has_expired(before):
            return 0
        return len(await self._prune(before))
