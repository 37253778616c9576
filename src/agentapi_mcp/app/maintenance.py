"""Maintenance by the operator: migrations, and audit log pruning."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from agentapi_mcp.app.database import Owner, database_owner
from agentapi_mcp.settings import VERSION, Settings
from agentapi_mcp.stores.postgres.audit import prune_audit
from agentapi_mcp.stores.postgres.migrate import (
    Migrated,
    MigrationState,
    OtherTables,
    Plan,
    Preview,
    find_other_tables,
    run_migration,
    run_preview,
    status,
)


async def other_tables(settings: Settings, environ: Mapping[str, str]) -> OtherTables | None:
    """Return the tables of others in `public`, if the migrations would create tables beside them."""
    async with database_owner(settings, environ) as owner:
        return await tables_of_others(owner)


async def tables_of_others(owner: Owner) -> OtherTables | None:
    """Return the tables of others in `public` of a database, if the migrations would create tables beside them."""
    return await find_other_tables(owner.url, owner.variable)


async def migrate_database(
    settings: Settings, environ: Mapping[str, str], *, grant_to: str | None = None, narrow_columns: bool | None = None
) -> Migrated:
    """Apply pending migrations, and grant the use of the tables to the login `grant_to`."""
    async with database_owner(settings, environ) as owner:
        plan = Plan(VERSION, grant_to or owner.grant_to, narrow_columns)
        return await run_migration(owner.url, plan, variable=owner.variable)


async def preview_migration(
    settings: Settings, environ: Mapping[str, str], *, grant_to: str | None = None, narrow_columns: bool | None = None
) -> Preview:
    """Return what `migrate_database` would do, without a change."""
    async with database_owner(settings, environ) as owner:
        plan = Plan(VERSION, grant_to or owner.grant_to, narrow_columns)
        return await run_preview(owner.url, plan, variable=owner.variable)


async def prune_audit_log(settings: Settings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Drop the months of the audit log past their retention, and return them."""
    before = datetime.now(UTC) - timedelta(days=settings.audit_retention_days)
    async with database_owner(settings, environ) as owner:
        return await prune_audit(owner.url, before, owner.variable)


async def migration_states(settings: Settings, environ: Mapping[str, str]) -> tuple[MigrationState, ...]:
    """List the migrations with the time that each was applied."""
    async with database_owner(settings, environ) as owner:
        return await status(owner.url, owner.variable)
