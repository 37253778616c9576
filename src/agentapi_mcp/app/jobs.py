"""The periodic jobs of every process."""

from datetime import timedelta
from functools import partial

from agentapi_mcp.app.build import Foundation
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.health import Part
from agentapi_mcp.core.jobs.expiry import delete_expired
from agentapi_mcp.core.jobs.models import Job
from agentapi_mcp.core.jobs.ports import ExpiringRows
from agentapi_mcp.core.jobs.runner import JobRunner
from agentapi_mcp.stores.postgres.jobs import PostgresExpiredRows, PostgresJobs
from agentapi_mcp.stores.postgres.openings import keep_openings

_HOUR = timedelta(hours=1)
_EXPIRY_SUMMARIES = {
    ExpiringRows.IDEMPOTENCY_KEYS: "delete idempotency keys a day after their request",
    ExpiringRows.MCP_SESSIONS: "delete clients a month, and transport sessions a day after their last use",
    ExpiringRows.KEY_REQUESTS: "delete links to the key page that have expired",
    ExpiringRows.INVITATIONS: "delete invitations that nobody took in time",
    ExpiringRows.SIGNALS: "delete what processes told each other a minute ago",
    ExpiringRows.TASKS: "delete tasks of MCP clients a day after their call",
}


def build_jobs(base: Foundation) -> JobRunner:
    """Build the runner of all jobs; it runs none until it is opened."""
    expired = PostgresExpiredRows(base.database)
    expiry = [
        Job(name=rows, summary=summary, interval=_HOUR, run=partial(delete_expired, expired, rows))
        for rows, summary in _EXPIRY_SUMMARIES.items()
    ]
    audit = Job(
        name="audit_partitions",
        summary="create the audit log's partition of the next month; drop old ones of the embedded database",
        interval=timedelta(days=1),
        run=base.audit_partitions.maintain,
    )
    openings = Job(
        name="session_openings",
        summary="keep what a search reads of sessions that other programs and versions began",
        interval=timedelta(days=1),
        run=partial(keep_openings, base.database),
    )
    return JobRunner([*expiry, audit, openings], PostgresJobs(base.database), base.clock, owner=new_id())


def jobs_part(jobs: JobRunner) -> Part:
    """Return the jobs as a part of the server, which stays ready whatever becomes of them."""
    return Part("jobs", "periodic work", jobs.remark, remarked=HealthStatus.DEGRADED)
