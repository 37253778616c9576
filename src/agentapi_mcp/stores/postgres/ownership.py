"""Which of the tables that organisations may have had before are this program's own."""

from agentapi_mcp.stores.postgres.database import Connection


async def is_ours(connection: Connection, *tables: str) -> bool:
    """Tell whether the migrations made all of these tables of `public`."""
    return await connection.fetchval(
        "SELECT count(*) = cardinality($1::text[]) FROM agentapi.facts WHERE name = ANY ($1) AND value = 'ours'",
        list(tables),
    )
