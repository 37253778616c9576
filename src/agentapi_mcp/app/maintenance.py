"""Maintenance by the operator: migrations, audit log pruning, and new master keys."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from agentapi_mcp.app.database import database_owner
from agentapi_mcp.auth import master_keys
from agentapi_mcp.settings import VERSION, Settings
from agentapi_mcp.stores.postgres.audit import prune_audit
from agentapi_mcp.stores.postgres.migrate import MigrationState, Preview, migrate, preview, status


def new_master_key() -> str:
    """Generate a master key in the format of AGENTAPI_MASTER_KEY."""
    return master_keys.new_master_key()


async def migrate_database(
    settings: Settings, environ: Mapping[str, str], *, grant_to: str | None = None
) -> tuple[str, ...]:
    """Apply pending migrations, grant the use of the tables to the login `grant_to`, and return the migrations' ids."""
    async with database_owner(settings, environ) as owner:
        return await migrate(owner.url, program=VERSION, grant_to=grant_to or owner.grant_to, variable=owner.variable)


async def preview_migration(settings: Settings, environ: Mapping[str, str], *, grant_to: str | None = None) -> Preview:
    """Return what `migrate_database` would do, without a change."""
    async with database_owner(settings, environ) as owner:
        return await preview(owner.url, program=VERSION, grant_to=grant_to or owner.grant_to, variable=owner.variable)


async def prune_audit_log(settings: Settings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Drop the months of the audit log past their retention, and return them."""
    before = datetime.now(UTC) - timedelta(days=settings.audit_retention_days)
    async with database_owner(settings, environ) as owner:
        return await prune_audit(owner.url, before, owner.variable)


async def migration_states(settings: Settings, environ: Mapping[str, str]) -> tuple[MigrationState, ...]:
    """List the migrations with the time that each was applied."""
    async with database_owner(settings, environ) as owner:
        return await status(owner.url, owner.variable)
