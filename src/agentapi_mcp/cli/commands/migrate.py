"""`agentapi-mcp migrate`: apply the migrations of the database."""

from functools import partial

import click

from agentapi_mcp.app.maintenance import Preview, migrate_database, migration_states, preview_migration
from agentapi_mcp.cli.outputs import guarded, table
from agentapi_mcp.cli.terminal import print_out
from agentapi_mcp.settings import environment, load_settings
from agentapi_mcp.telemetry import configure_logs


@click.command()
@click.option("--status", "only_status", is_flag=True, help="Show what was applied and what is to come.")
@click.option("--dry-run", is_flag=True, help="List what it would do, and change nothing.")
@click.option("--grant-to", metavar="LOGIN", help="Let this login work for the program.")
def migrate(*, only_status: bool, dry_run: bool, grant_to: str | None) -> None:
    """Bring the database to this version."""
    guarded(partial(_migrate, only_status=only_status, dry_run=dry_run, grant_to=grant_to))


async def _migrate(*, only_status: bool, dry_run: bool, grant_to: str | None) -> None:
    settings = load_settings()
    configure_logs(settings.log_level)
    if only_status:
        states = await migration_states(settings, environment())
        table(("MIGRATION", "APPLIED", "NOTE"), [(s.id, s.applied_at or "not yet", s.note or "") for s in states])
        return
    if dry_run:
        _print_preview(await preview_migration(settings, environment(), grant_to=grant_to))
        return
    applied = await migrate_database(settings, environment(), grant_to=grant_to)
    print_out(f"Applied: {', '.join(applied)}" if applied else "The database is up to date.")
    if grant_to is not None:
        print_out(f"Granted: the login {grant_to} works for the program.")


def _print_preview(plan: Preview) -> None:
    print_out(
        f"Database {plan.database} on Postgres {plan.server}, as the login {plan.login}: it fits. Nothing was changed."
    )
    if plan.carries_over:
        print_out("It was made before the first release and equals this program's schema: it would be carried over.")
    if plan.migrations:
        print_out(f"It would apply: {', '.join(plan.migrations)}")
    elif not plan.carries_over:
        print_out("The database is up to date.")
    for change in plan.changes:
        print_out(f"  {change}")
