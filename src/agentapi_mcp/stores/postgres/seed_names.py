"""The views and functions under names that other programs know, of which some may be theirs (0023_seed_names.sql)."""

from typing import LiteralString, TypeAlias

import asyncpg

from agentapi_mcp.stores.postgres.database import Connection

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | Connection"
# The migration that makes them.
SEED_NAMES = "0023_seed_names"
_LEFT: LiteralString = "SELECT 'public.' || name AS name FROM agentapi.facts WHERE value = 'theirs' ORDER BY name"


async def left_to_others(connection: _Connection) -> tuple[str, ...]:
    """Return the names that were taken when the migration came, so that nothing was made there."""
    return tuple([row["name"] for row in await connection.fetch(_LEFT)])
