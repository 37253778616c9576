"""`agentapi-mcp migrate`: apply the migrations of the database."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import click

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.text import listed
from agentapi_mcp.cli.configured import read_settings
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import guarded, print_json, table
from agentapi_mcp.cli.questions import confirm
from agentapi_mcp.cli.terminal import print_out
from agentapi_mcp.environ import environment
from agentapi_mcp.presentation.values import local_time, moment

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.app import maintenance
    from agentapi_mcp.app.maintenance import OtherTables, Preview
else:
    maintenance = LazyModule("agentapi_mcp.app.maintenance")


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
@json_option
def migrate(*, only_status: bool, dry_run: bool, as_json: bool, **values: Any) -> None:  # noqa: ANN401  # click checked them
    """Bring the database to this version."""
    options = _Options(**values, as_json=as_json)
    if only_status:
        guarded(partial(_print_status, as_json=as_json))
    else:
        guarded(partial(_preview if dry_run else _migrate, options))


@dataclass(frozen=True, slots=True)
class _Options:
    """Options of a migration, or of what shows it."""

    grant_to: str | None
    narrow_columns: bool | None
    confirmed: bool
    as_json: bool


async def _print_status(*, as_json: bool) -> None:
    states = await maintenance.migration_states(read_settings(), environment())
    if as_json:
        applied = [{"id": s.id, "applied_at": s.applied_at and moment(s.applied_at), "note": s.note} for s in states]
        print_json({"migrations": applied})
        return
    table(
        ("MIGRATION", "APPLIED", "NOTE"),
        [(s.id, "not yet" if s.applied_at is None else local_time(s.applied_at), s.note or "") for s in states],
    )


async def _preview(options: _Options) -> None:
    plan = await maintenance.preview_migration(
        read_settings(), environment(), grant_to=options.grant_to, narrow_columns=options.narrow_columns
    )
    if options.as_json:
        print_json(asdict(plan))
    else:
        _print_preview(plan)


async def _migrate(options: _Options) -> None:
    settings, grant_to = read_settings(), options.grant_to
    others = None if options.confirmed else await maintenance.other_tables(settings, environment())
    if others is not None:
        _ask(others)
    done = await maintenance.migrate_database(
        settings, environment(), grant_to=grant_to, narrow_columns=options.narrow_columns
    )
    if options.as_json:
        print_json(asdict(done) | {"granted_to": grant_to})
        return
    print_out(f"Applied: {', '.join(done.migrations)}" if done.migrations else "The database is up to date.")
    if done.added:
        print_out(f"Added, since it was missing: {', '.join(done.added)}.")
    if grant_to is not None:
        print_out(f"Granted: the login {grant_to} works for the program.")
    _print_notes(done.notes)


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
