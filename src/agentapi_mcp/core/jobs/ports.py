"""Storage ports of periodic work."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from agentapi_mcp.core.jobs.models import Job, JobClaim, JobState


class JobStore(Protocol):
    """The runs of all jobs, shared by the processes of a database, whose clock measures intervals and leases."""

    async def due_in(self, jobs: Sequence[Job]) -> Mapping[str, timedelta]:
        """Read the time until each job is due, by name; zero or less if it is due now."""
        ...

    async def claim(self, job: Job, owner: UUID, lease: timedelta) -> JobClaim | None:
        """Claim a job if it is due; None if it is not, or if another process was faster.

        A job whose lease is over is due, and its last run counts as a failure: the process that ran it has died.
        """
        ...

    async def finish(self, claim: JobClaim, error: str | None) -> None:
        """Record the end of a run, unless another process has claimed the job since; `error` is None for a success."""
        ...

    async def release(self, claim: JobClaim) -> None:
        """Return a claim without a result, so that the job is due at once."""
        ...

    async def states(self) -> Mapping[str, JobState]:
        """Read the state of every job that was ever claimed, by name."""
        ...


class ExpiringRows(StrEnum):
    """Rows that expire; no query returns an expired one, so when they are deleted does not matter."""

    IDEMPOTENCY_KEYS = "idempotency_keys"
    MCP_SESSIONS = "mcp_sessions"
    KEY_REQUESTS = "key_requests"
    INVITATIONS = "invitations"
    SIGNALS = "signals"
    TASKS = "tasks"


class ExpiredRowStore(Protocol):
    """Deletion of expired rows, of all users."""

    async def delete_expired(self, rows: ExpiringRows, limit: int) -> int:
        """Delete at most `limit` expired rows in a transaction of its own, and return how many there were."""
        ...
