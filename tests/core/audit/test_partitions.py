"""Months of the audit log are made ahead of time, and dropped after it, over a real database."""

from datetime import datetime, timedelta

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.core.audit.partitions import AuditPartitions
from agentapi_mcp.stores.postgres.audit import PostgresAudit, prune_audit
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from tests.conftest import DatabaseUrls
from tests.support.clocks import ManualClock

MONTH = timedelta(days=31)


async def months(database: Database) -> set[str]:
    """List the months that have a partition."""
    async with database.as_system("test") as connection:
        rows = await connection.fetch(
            "SELECT right(inhrelid::regclass::text, 7) AS month FROM pg_inherits "
            "WHERE inhparent = 'agentapi.audit_events'::regclass"
        )
    return {row["month"] for row in rows} - {"default"}


async def test_this_month_and_the_next_are_there_as_time_goes_on(database: Database) -> None:
    clock = ManualClock(at=SystemClock().now() + timedelta(days=300))
    partitions = AuditPartitions(PostgresAudit(database), clock, timedelta(days=365))
    for _ in range(3):
        before = await months(database)
        now = clock.now()
        following = now.replace(day=1) + MONTH
        assert await partitions.maintain() == 0
        assert await months(database) == before | {f"{now:%Y_%m}", f"{following:%Y_%m}"}
        clock.advance(3 * MONTH)


async def test_months_are_dropped_after_their_retention_where_the_process_may(own_database: DatabaseUrls) -> None:
    clock, retention = ManualClock(at=SystemClock().now() - timedelta(days=600)), timedelta(days=400)
    asked: list[datetime] = []

    async def prune(before: datetime) -> tuple[str, ...]:
        asked.append(before)
        return await prune_audit(own_database.owner, before)

    async with open_database(RemoteServer(own_database.app), PoolOptions(max_size=1)) as database:
        mine = AuditPartitions(PostgresAudit(database), clock, retention, prune)
        others = AuditPartitions(PostgresAudit(database), clock, retention)
        old = clock.now()
        assert await mine.maintain() == 0
        assert asked == []  # nothing is past its retention, so nobody connects as the owner
        clock.advance(retention + 3 * MONTH)
        assert await others.maintain() == 0
        assert f"{old:%Y_%m}" in await months(database)
        assert await mine.maintain() == 2
        assert asked == [clock.now() - retention]
        assert f"{old:%Y_%m}" not in await months(database)
