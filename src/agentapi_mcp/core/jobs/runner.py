"""Runs the periodic jobs of a process, each once per interval over all processes of its database."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Self
from uuid import UUID

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import AgentApiError, StoreError, StoreUnavailableError
from agentapi_mcp.base.text import number_of
from agentapi_mcp.core.jobs.models import Job, JobClaim, JobState
from agentapi_mcp.core.jobs.ports import JobStore

_log = logging.getLogger(__name__)
# Soon, since a process on a laptop may live for a few seconds only.
_FIRST_LOOK = timedelta(seconds=1)
# Bounds of the time between two looks: an idle process asks the database at most once a minute, and a job that another
# process gave back, or died of, does not wait for long.
_SHORTEST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(minutes=5)
_JITTER = timedelta(seconds=5)
_RETRY = timedelta(seconds=30)
# What a lease outlasts its run by, so that no two processes run a job at once.
_LEASE_MARGIN = timedelta(minutes=5)
_RELEASE_WITHIN = timedelta(seconds=1)
# Until then, a job may not have run because no process was up.
_GRACE = timedelta(minutes=10)
_OVERDUE_INTERVALS = 3


class JobRunner:
    """Claims and runs jobs that are due while `open` is active; `owner` identifies this process.

    A failed job is tried again after its interval. While the store is unavailable no job fails: its claim is returned,
    and it runs when the store is back. A run ends after `time_limit`.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        store: JobStore,
        clock: Clock,
        *,
        owner: UUID,
        time_limit: timedelta = timedelta(minutes=10),
    ) -> None:
        self._jobs = {job.name: job for job in jobs}
        self._store = store
        self._clock = clock
        self._owner = owner
        self._time_limit = time_limit
        self._opened_at: float | None = None
        self._is_waiting = False

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Run jobs in the background; a running job is cancelled at the end, and its claim is returned."""
        self._opened_at = self._clock.monotonic()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._run())
            try:
                yield self
            finally:
                task.cancel()

    async def remark(self) -> str | None:
        """Describe the jobs whose last run failed, or which have not run for three intervals; None if all are well.

        The errors themselves are left out: all members see the health of the server.
        """
        states = await self._store.states()
        found = [remark for job in self._jobs.values() if (remark := self._remark_on(job, states.get(job.name)))]
        return "; ".join([*found, "the server's log has the details"]) if found else None

    def _remark_on(self, job: Job, state: JobState | None) -> str | None:
        title = f"the job {job.name} ({job.summary})"
        if state is not None and state.consecutive_failures:
            times = (
                "" if state.consecutive_failures == 1 else f" {number_of(state.consecutive_failures, 'time')} in a row"
            )
            return f"{title} failed{times}"
        if self._opened_at is None or self._clock.monotonic() - self._opened_at < _GRACE.total_seconds():
            return None
        if state is None:
            return f"{title} has never run"
        if state.idle_for >= _OVERDUE_INTERVALS * job.interval:
            return f"{title} has not run for {state.idle_for // timedelta(hours=1)} h"
        return None

    # --- the background task

    async def _run(self) -> None:
        await self._clock.sleep(_FIRST_LOOK + self._jitter())
        while True:
            await self._clock.sleep(await self._look() + self._jitter())

    def _jitter(self) -> timedelta:
        # The last bits of the id are random, so that replicas started at once do not ask at once.
        return _JITTER * (self._owner.int % 1000 / 1000)

    async def _look(self) -> timedelta:
        """Run the jobs that are due, and return the time to wait until the next look."""
        try:
            waits = [await self._attend(self._jobs[name], due_in) for name, due_in in (await self._due_in()).items()]
        except Exception as exc:  # noqa: BLE001  # outermost handler of the task: whatever failed is tried again
            # Once for each outage, not once a minute.
            if not self._is_waiting:
                unexpected = None if isinstance(exc, StoreError) else exc
                _log.warning("jobs_wait", extra={"error": _words(exc)}, exc_info=unexpected)
            self._is_waiting = True
            return _SHORTEST_WAIT
        self._is_waiting = False
        return min(max(min(waits, default=_LONGEST_WAIT), _SHORTEST_WAIT), _LONGEST_WAIT)

    async def _due_in(self) -> Mapping[str, timedelta]:
        return await self._store.due_in(tuple(self._jobs.values()))

    async def _attend(self, job: Job, due_in: timedelta) -> timedelta:
        """Run a job if it is due and no other process does, and return the time until it is due again."""
        if due_in > timedelta(0):
            return due_in
        claim = await self._store.claim(job, self._owner, self._time_limit + _LEASE_MARGIN)
        if claim is None:
            return job.interval
        try:
            return await self._run_claimed(job, claim)
        except asyncio.CancelledError:
            # So that another process need not wait for the end of the lease.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_RELEASE_WITHIN.total_seconds()):
                    await self._store.release(claim)
            raise

    async def _run_claimed(self, job: Job, claim: JobClaim) -> timedelta:
        try:
            error = await self._outcome(job)
        except StoreUnavailableError as exc:
            _log.info("job_waits", extra={"job": job.name, "error": str(exc)})
            await self._retried(lambda: self._store.release(claim))
            return timedelta(0)
        await self._retried(lambda: self._store.finish(claim, error))
        return job.interval

    async def _outcome(self, job: Job) -> str | None:
        """Run a job, and return why it failed, None if it did not."""
        try:
            async with asyncio.timeout(self._time_limit.total_seconds()):
                changed = await job.run()
        except StoreUnavailableError:
            raise
        except Exception as exc:  # noqa: BLE001  # a job must end neither the runner nor the other jobs
            expected = isinstance(exc, AgentApiError | TimeoutError)
            _log.warning("job_failed", extra={"job": job.name, "error": _words(exc)}, exc_info=not expected)
            return _words(exc)
        if changed:
            _log.info("job_done", extra={"job": job.name, "changed": changed})
        return None

    async def _retried(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write to the store, again and again while it is unavailable."""
        while True:
            try:
                return await write()
            except StoreUnavailableError:
                await self._clock.sleep(_RETRY)


def _words(error: Exception) -> str:
    """Describe an error without the text of a library, which may quote data."""
    if isinstance(error, AgentApiError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "It was not done within its time, and goes on at its next run."
    return type(error).__name__
