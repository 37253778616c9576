"""The servers that are up on this database."""

from datetime import timedelta
from typing import LiteralString
from uuid import UUID

from typing_extensions import override

from agentapi_mcp.core.catalogue.models import Replica
from agentapi_mcp.core.catalogue.ports import ReplicaStore
from agentapi_mcp.stores.postgres.database import Database

# A replica writes its own row alone, and passes over rows that another one is deleting: none waits for another.
_NOTE: LiteralString = """
WITH forgotten AS (
    DELETE FROM agentapi.replicas
     WHERE id IN (SELECT id FROM agentapi.replicas
                   WHERE seen_at < clock_timestamp() - interval '1 day' AND id <> $1
                     FOR UPDATE SKIP LOCKED)
), own AS (
    INSERT INTO agentapi.replicas (id, version, configuration) VALUES ($1, $2, $3)
    ON CONFLICT (id) DO UPDATE
       SET version = excluded.version, configuration = excluded.configuration, seen_at = clock_timestamp()
)
SELECT id, version, configuration
  FROM agentapi.replicas
 WHERE id <> $1 AND seen_at >= clock_timestamp() - $4::interval
"""


class PostgresReplicas(ReplicaStore):
    """One row for each server, which it writes itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def note(self, replica: Replica, alive_within: timedelta) -> tuple[Replica, ...]:
        async with self._database.as_system("note that this replica lives") as connection:
            rows = await connection.fetch(_NOTE, replica.id, replica.version, replica.configuration, alive_within)
        return tuple(Replica(id=row["id"], version=row["version"], configuration=row["configuration"]) for row in rows)

    @override
    async def leave(self, replica_id: UUID) -> None:
        async with self._database.as_system("remove a replica that ends") as connection:
            await connection.execute("DELETE FROM agentapi.replicas WHERE id = $1", replica_id)
