"""`agentapi-mcp migrate`: apply the migrations of the database."""

import sys
from collections.abc import Sequence
from functools import partial

import click

from agentapi_mcp.app.maintenance import (
    OtherTables,
    Preview,
    migrate_database,
    migration_states,
    other_tables,
    preview_migration,
)
from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.text import listed
from agentapi_mcp.cli.outputs import guarded, table
from agentapi_mcp.cli.questions import confirm
from agentapi_mcp.cli.terminal import print_out
from agentapi_mcp.settings import Settings, environment, load_settings
from agentapi_mcp.telemetry import configure_logs


@click.command()
@click.option("--status", "only_status", is_flag=True, help="Show what was applied and what is to come.")
@click.option("--dry-run", is_flag=True, help="List what it would do, and change nothing.")
@click.option("--grant-to", metavar="LOGIN", help="Let this login work for the program.")
@click.option(
    "--narrow-columns/--no-narrow-columns",
    default=None,
    help="Let signed-in users read only the columns that the program needs; or again all that hold no secrets.",
)
@click.option("--yes", "confirmed", is_flag=True, help="Do not ask before creating tables beside those of others.")
def migrate(
    *, only_status: bool, dry_run: bool, grant_to: str | None, narrow_columns: bool | None, confirmed: bool
) -> None:
    """Bring the database to this version."""
    if only_status:
        guarded(_print_status)
    elif dry_run:
        guarded(partial(_preview, grant_to, narrow_columns=narrow_columns))
    else:
        guarded(partial(_migrate, grant_to, narrow_columns=narrow_columns, confirmed=confirmed))


async def _print_status() -> None:
    states = await migration_states(_settings(), environment())
    table(("MIGRATION", "APPLIED", "NOTE"), [(s.id, s.applied_at or "not yet", s.note or "") for s in states])


async def _preview(grant_to: str | None, *, narrow_columns: bool | None) -> None:
    _print_preview(
        await preview_migration(_settings(), environment(), grant_to=grant_to, narrow_columns=narrow_columns)
    )


async def _migrate(grant_to: str | None, *, narrow_columns: bool | None, confirmed: bool) -> None:
    settings = _settings()
    others = None if confirmed else await other_tables(settings, environment())
    if others is not None:
        _ask(others)
    done = await migrate_database(settings, environment(), grant_to=grant_to, narrow_columns=narrow_columns)
    print_out(f"Applied: {', '.join(done.migrations)}" if done.migrations else "The database is up to date.")
    if done.added:
        print_out(f"Added, since it was missing: {', '.join(done.added)}.")
    if grant_to is not None:
        print_out(f"Granted: the login {grant_to} works for the program.")
    _print_notes(done.notes)


def _settings() -> Settings:
    settings = load_settings()
    configure_logs(settings.log_level)
    return settings


def _ask(others: OtherTables) -> None:
    """Ask whether this is the database that is meant.

    Raises:
        InvalidRequestError: nobody can be asked.
    """
    what = (
        f"The database {others.database}, which {others.variable} names, has tables of other programs in its schema "
        f"public ({others.examples}), and the migrations would create {listed(others.created)} beside them."
    )
    if not sys.stdin.isatty():
        raise InvalidRequestError(f"{what} Nobody can be asked whether that is meant: say --yes.")
    if not confirm(f"{what} Go on?", default=False):
        raise click.Abort


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print_out(f"Note: {note}.")


def _print_preview(plan: Preview) -> None:
    named = f" ({plan.variable})" if plan.variable else ""
    print_out(
        f"Database {plan.database}{named} on Postgres {plan.server}, as the login {plan.login}: it fits. "
        "Nothing was changed."
    )
    if plan.carries_over:
        print_out("It was made before the first release and equals this program's schema: it would be carried over.")
    if plan.migrations:
        print_out(f"It would apply: {', '.join(plan.migrations)}")
    elif not plan.carries_over:
        print_out("The database is up to date.")
    for change in plan.changes:
        print_out(f"  {change}")
    _print_notes(plan.notes)
