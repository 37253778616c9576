"""Tell tables that this program created from those of an existing application."""

from agentapi_mcp.stores.postgres.database import Connection


async def is_ours(connection: Connection, *tables: str) -> bool:
    """Return whether the migrations created all of these tables of `public`."""
    return await connection.fetchval(
        "SELECT count(*) = cardinality($1::text[]) FROM agentapi.facts WHERE name = ANY ($1) AND value = 'ours'",
        list(tables),
    )
