"""Facts about the database for the doctor command."""

from collections.abc import Collection
from datetime import timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.core.diagnosis.models import DatabaseFacts
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.login_privileges import login_remark
from agentapi_mcp.stores.postgres.seed_names import left_to_others


async def read_facts(database: Database, clock: Clock) -> DatabaseFacts:
    """Query version, role and encryption, and measure the latency.

    Raises:
        StoreError: the database does not answer; the message says what to do.
    """
    begun = clock.monotonic()
    async with database.as_system("doctor") as connection:
        row = await connection.fetchrow(
            "SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS standby, "
            "coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted"
        )
        left = await left_to_others(connection)
    latency = timedelta(seconds=clock.monotonic() - begun)
    if row is None:
        raise StoreUnavailableError("The database did not answer.")
    return DatabaseFacts(
        version=row["version"],
        is_standby=row["standby"],
        is_encrypted=row["encrypted"],
        latency=latency,
        remark=await login_remark(database),
        left_to_others=left,
    )


async def find_organizations(database: Database, ids: Collection[OrgId]) -> frozenset[OrgId]:
    """Return those of the ids that organisations have."""
    async with database.as_system("compare the configuration file with the organisations") as connection:
        rows = await connection.fetch("SELECT id FROM public.organizations WHERE id = ANY ($1::uuid[])", list(ids))
    return frozenset(OrgId(row["id"]) for row in rows)
