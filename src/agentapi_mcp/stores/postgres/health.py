"""Health of agents, in `agent_health`."""

from collections.abc import Mapping
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.core.catalogue.models import AgentHealth
from agentapi_mcp.core.catalogue.ports import HealthStore
from agentapi_mcp.stores.postgres.database import Database, Row

_LONGEST_ERROR = 500

# One statement, so that concurrent measurements lose no failure; a deleted agent yields no row.
_RECORD: LiteralString = """
INSERT INTO public.agent_health AS h (agent_id, status, last_check, last_error, consecutive_failures)
SELECT a.id, CASE WHEN $2::text = 'healthy' THEN 'healthy' ELSE 'degraded' END, clock_timestamp(), $3::text,
       CASE WHEN $2::text = 'healthy' THEN 0 ELSE 1 END
  FROM public.agents a
 WHERE a.id = $1
ON CONFLICT (agent_id) DO UPDATE
   SET consecutive_failures = CASE $2::text
           WHEN 'healthy' THEN 0 WHEN 'degraded' THEN 1 ELSE coalesce(h.consecutive_failures, 0) + 1 END,
       status = CASE WHEN $2::text = 'unhealthy' AND coalesce(h.consecutive_failures, 0) + 1 >= 3 THEN 'unhealthy'
                     ELSE excluded.status END,
       last_check = excluded.last_check,
       last_error = excluded.last_error
RETURNING h.agent_id, h.status, h.last_check, h.last_error, h.consecutive_failures
"""


class PostgresHealth(HealthStore):
    """Health shared by all processes of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def all_(self) -> Mapping[AgentId, AgentHealth]:
        """Read the health of every agent; a row without a check is unknown, whatever its status column says."""
        async with self._database.as_system("read the agents' health") as connection:
            rows = await connection.fetch(
                "SELECT agent_id, status, last_check, last_error, consecutive_failures FROM public.agent_health"
            )
        return {AgentId(row["agent_id"]): _health(row) for row in rows}

    @override
    async def record(self, agent_id: AgentId, check: HealthCheck) -> AgentHealth:
        """Count consecutive failures: one is degraded, three are unhealthy, a success resets."""
        error = None if check.status is HealthStatus.HEALTHY else _storable(check.error)
        async with self._database.as_system("record an agent's health") as connection:
            row = await connection.fetchrow(_RECORD, agent_id, check.status.value, error)
        return _health(row) if row is not None else AgentHealth()


def _health(row: Row) -> AgentHealth:
    if row["last_check"] is None:
        return AgentHealth()
    known = row["status"] in {HealthStatus.HEALTHY, HealthStatus.DEGRADED, HealthStatus.UNHEALTHY}
    return AgentHealth(
        status=HealthStatus(row["status"]) if known else HealthStatus.UNKNOWN,
        checked_at=row["last_check"],
        last_error=row["last_error"],
        consecutive_failures=row["consecutive_failures"] or 0,
    )


def _storable(error: str | None) -> str | None:
    # Postgres cannot store NUL in text.
    return None if error is None else error.replace("\x00", "")[:_LONGEST_ERROR]
