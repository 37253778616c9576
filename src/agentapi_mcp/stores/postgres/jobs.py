"""Periodic work in Postgres: the runs of jobs, and the deletion of expired rows."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import LiteralString
from uuid import UUID

from typing_extensions import override

from agentapi_mcp.core.jobs.models import Job, JobClaim, JobState
from agentapi_mcp.core.jobs.ports import ExpiredRowStore, ExpiringRows, JobStore
from agentapi_mcp.stores.postgres.connections import Lane
from agentapi_mcp.stores.postgres.database import Database

# When a row `j` is due. A start in the future was written before the database's clock was set back, and counts as none:
# the job would wait until then. Replicas of a database may differ by some seconds when one takes over.
_DUE_AT: LiteralString = """
CASE WHEN j.last_started_at > clock_timestamp() + interval '1 minute' THEN clock_timestamp()
     ELSE coalesce(j.lease_until, j.last_started_at + {interval}) END
"""
_DUE_IN: LiteralString = f"""
SELECT w.name, coalesce({_DUE_AT.format(interval="w.every")} - clock_timestamp(), interval '0') AS due_in
  FROM unnest($1::text[], $2::interval[]) AS w (name, every)
  LEFT JOIN agentapi.jobs j USING (name)
"""  # noqa: S608  # made of literals
# Of processes that claim a job at once, the second waits for the first and then finds it no longer due. A lease that is
# over and still has an owner was neither finished nor released.
_CLAIM: LiteralString = f"""
INSERT INTO agentapi.jobs AS j (name, owner, last_started_at, lease_until)
VALUES ($1, $2, clock_timestamp(), clock_timestamp() + $4::interval)
ON CONFLICT (name) DO UPDATE
   SET owner = excluded.owner, last_started_at = excluded.last_started_at, lease_until = excluded.lease_until,
       consecutive_failures = j.consecutive_failures + (j.lease_until IS NOT NULL AND j.owner IS NOT NULL)::integer,
       last_error = CASE WHEN j.lease_until IS NOT NULL AND j.owner IS NOT NULL
                         THEN 'The process that ran it ended before it did.' ELSE j.last_error END
 WHERE {_DUE_AT.format(interval="$3::interval")} <= clock_timestamp()
RETURNING last_started_at
"""  # noqa: S608  # made of literals
# Fenced by the claim: a process that was frozen may come back after another one has claimed the job.
_FINISH: LiteralString = """
UPDATE agentapi.jobs
   SET last_ended_at = clock_timestamp(), lease_until = NULL, last_error = $4,
       consecutive_failures = CASE WHEN $4::text IS NULL THEN 0 ELSE consecutive_failures + 1 END
 WHERE name = $1 AND owner = $2 AND last_started_at = $3 AND lease_until IS NOT NULL
"""
_RELEASE: LiteralString = """
UPDATE agentapi.jobs SET owner = NULL, lease_until = clock_timestamp()
 WHERE name = $1 AND owner = $2 AND last_started_at = $3 AND lease_until IS NOT NULL
"""
_STATES: LiteralString = """
SELECT name, last_error, consecutive_failures, clock_timestamp() - coalesce(last_ended_at, created_at) AS idle_for
  FROM agentapi.jobs
"""


class PostgresJobs(JobStore):
    """A row for each job, which the process that runs the job has a lease on."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def due_in(self, jobs: Sequence[Job]) -> Mapping[str, timedelta]:
        async with self._database.as_system("when periodic work is due") as connection:
            rows = await connection.fetch(_DUE_IN, [job.name for job in jobs], [job.interval for job in jobs])
        return {row["name"]: row["due_in"] for row in rows}

    @override
    async def claim(self, job: Job, owner: UUID, lease: timedelta) -> JobClaim | None:
        async with self._database.as_system("one process does periodic work") as connection:
            started_at = await connection.fetchval(_CLAIM, job.name, owner, job.interval, lease)
        return None if started_at is None else JobClaim(name=job.name, owner=owner, started_at=started_at)

    @override
    async def finish(self, claim: JobClaim, error: str | None) -> None:
        async with self._database.as_system("periodic work is done") as connection:
            await connection.execute(_FINISH, claim.name, claim.owner, claim.started_at, error)

    @override
    async def release(self, claim: JobClaim) -> None:
        async with self._database.as_system("periodic work is left to another process") as connection:
            await connection.execute(_RELEASE, claim.name, claim.owner, claim.started_at)

    @override
    async def states(self) -> Mapping[str, JobState]:
        async with self._database.as_system("how periodic work fares", lane=Lane.RESERVED) as connection:
            rows = await connection.fetch(_STATES)
        return {
            row["name"]: JobState(
                idle_for=row["idle_for"],
                last_error=row["last_error"],
                consecutive_failures=row["consecutive_failures"],
            )
            for row in rows
        }


# Rows that another transaction has locked are skipped, and are left to the next run. The order makes the planner read
# the expired rows alone, by the index.
DELETE_EXPIRED: dict[ExpiringRows, LiteralString] = {
    ExpiringRows.IDEMPOTENCY_KEYS: """
DELETE FROM agentapi.idempotency_keys WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM agentapi.idempotency_keys
        WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
""",
    # By a column that the program may read: in a database that had this table before, it has no right to the others.
    # Rows that this program wrote hold a protocol; all others belong to other programs.
    ExpiringRows.MCP_SESSIONS: """
DELETE FROM public.mcp_sessions WHERE session_id = ANY (ARRAY(
       SELECT session_id FROM public.mcp_sessions
        WHERE expires_at < now() AND mcp_state ? 'protocol' ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
""",
    ExpiringRows.KEY_REQUESTS: """
DELETE FROM agentapi.key_requests WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM agentapi.key_requests
        WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
""",
    ExpiringRows.INVITATIONS: """
DELETE FROM agentapi.invitations WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM agentapi.invitations
        WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
""",
    ExpiringRows.SIGNALS: """
DELETE FROM agentapi.signals WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM agentapi.signals
        WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
""",
    ExpiringRows.TASKS: """
DELETE FROM agentapi.tasks WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM agentapi.tasks
        WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
""",
}


class PostgresExpiredRows(ExpiredRowStore):
    """Expired rows of all tables that have them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def delete_expired(self, rows: ExpiringRows, limit: int) -> int:
        async with self._database.as_system("rows that have expired, whoever they belong to") as connection:
            done = await connection.execute(DELETE_EXPIRED[rows], limit)
        return int(done.removeprefix("DELETE "))
