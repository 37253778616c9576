"""Deletion of expired rows in batches."""

from agentapi_mcp.core.jobs.ports import ExpiredRowStore, ExpiringRows

# A batch locks its rows until it is committed, so it must stay short.
BATCH = 1000


async def delete_expired(store: ExpiredRowStore, rows: ExpiringRows) -> int:
    """Delete all expired rows of a kind, each batch in a transaction of its own, and return how many."""
    deleted = batch = await store.delete_expired(rows, BATCH)
    while batch == BATCH:
        batch = await store.delete_expired(rows, BATCH)
        deleted += batch
    return deleted
