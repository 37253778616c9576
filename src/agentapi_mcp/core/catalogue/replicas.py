"""The other servers on the same database, and whether they run with the same configuration."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Self

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import first_of, guarded
from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.text import listed, number_of
from agentapi_mcp.core.catalogue.models import Replica
from agentapi_mcp.core.catalogue.ports import ReplicaStore

_log = logging.getLogger(__name__)
_EVERY = timedelta(minutes=1)
# Three missed notes: a replica that was killed leaves its row behind.
_ALIVE_WITHIN = timedelta(minutes=3)
_LEAVE_WITHIN = timedelta(seconds=1)


class Replicas:
    """Notes once a minute that this server lives, and compares it with the others.

    Configurations are compared within one version only, since another version may have other settings.
    """

    def __init__(self, store: ReplicaStore, clock: Clock, own: Replica) -> None:
        self._store = store
        self._clock = clock
        self._own = own
        self._reconfigured = asyncio.Event()
        self._remark: str | None = None
        self._is_away = False

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Compare now, and in the background once a minute; at the end, remove the note of this server."""
        await self.compare()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._run())
            try:
                yield self
            finally:
                task.cancel()
                with suppress(StoreError, TimeoutError):  # the others forget this server after a while
                    async with asyncio.timeout(_LEAVE_WITHIN.total_seconds()):
                        await self._store.leave(self._own.id)

    def configure(self, configuration: str) -> None:
        """Replace the hash of the configuration, after a reload; it is noted at once, and compared within a minute."""
        self._own = replace(self._own, configuration=configuration)
        self._reconfigured.set()

    async def remark(self) -> str | None:
        """Describe how the others differed when they were last compared; None if they did not."""
        return self._remark

    async def compare(self) -> None:
        """Note that this server lives, and compare it with the others; a difference is logged when it changes."""
        others = await self._note()
        if others is None:
            return
        remark = _difference(self._own, others)
        if remark is not None and remark != self._remark:
            _log.warning("replicas_differ", extra={"reason": remark})
        self._remark = remark

    async def _run(self) -> None:
        while True:
            await first_of(self._reconfigured.wait(), self._clock.sleep(_EVERY))
            await guarded(self._note_or_compare())

    async def _note_or_compare(self) -> None:
        if self._reconfigured.is_set():
            self._reconfigured.clear()
            # Not compared: the others have the same change to read, and are as likely before it as after it.
            await self._note()
        else:
            await self.compare()

    async def _note(self) -> Sequence[Replica] | None:
        """Note that this server lives, and return the others; None while the store is away."""
        try:
            others = await self._store.note(self._own, _ALIVE_WITHIN)
        except StoreError as exc:
            if not self._is_away:  # once for each outage
                _log.warning("replicas_not_compared", extra={"reason": str(exc)})
            self._is_away = True
            return None
        self._is_away = False
        return others


def _difference(own: Replica, others: Sequence[Replica]) -> str | None:
    versions = sorted({own.version, *(other.version for other in others)})
    differ = [other for other in others if other.version == own.version and other.configuration != own.configuration]
    found: list[str] = []
    if len(versions) > 1:
        found.append(f"the versions {listed(versions)} run at once")
    if differ:
        found.append(
            f"another configuration is in use on {len(differ)} of {number_of(len(others), 'other replica')}: give all "
            "the same files, settings and variables"
        )
    return "; ".join(found) or None
