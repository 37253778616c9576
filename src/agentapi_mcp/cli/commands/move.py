"""`agentapi-mcp move`: copy all data to another database, so that the program can go on there."""

from functools import partial

import click

from agentapi_mcp.base.errors import ConflictError, InvalidRequestError
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.commands.restore import print_lost, restored_json
from agentapi_mcp.cli.configured import read_settings
from agentapi_mcp.cli.consent import ask, counted, yes_option
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import guarded, print_json
from agentapi_mcp.cli.progress import progress
from agentapi_mcp.cli.signals import unwound_by_signals
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.environ import environment

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.app import backups, maintenance
else:
    backups = LazyModule("agentapi_mcp.app.backups")
    maintenance = LazyModule("agentapi_mcp.app.maintenance")


@click.command()
@click.option(
    "--to", "url", required=True, metavar="DATABASE_URL", help="The database, as the login that owns its tables."
)
@click.option("--grant-to", metavar="LOGIN", help="Let this login work for the program there.")
@yes_option
@json_option
def move(url: str, grant_to: str | None, *, yes: bool, as_json: bool) -> None:
    """Copy everything to an empty Postgres database; what is here stays, until you remove it."""
    guarded(partial(_move, url, grant_to, yes=yes, as_json=as_json))


async def _move(url: str, grant_to: str | None, *, yes: bool, as_json: bool) -> None:
    settings = read_settings()
    source = await backups.look_at_existing(settings, environment())
    if not source.rows:
        raise InvalidRequestError(f"There is nothing to move in {source.name}.")
    target = backups.target_of(url, grant_to)
    others = await maintenance.tables_of_others(target)
    there = await backups.look_at(target)
    if there:
        raise ConflictError(f"In that database already: {counted(there)}. Move to an empty one. Nothing was changed.")
    beside = "" if others is None else f" beside the tables of other programs there ({others.examples})"
    print_err(f"In {source.name}: {counted(source.rows)}. All of it is copied to the database of --to{beside}.")
    ask("What is here stays as it is. Go on?", yes=yes)
    with unwound_by_signals(), progress("Moving", is_lines=settings.screen_reader) as bar:
        done = await backups.move(
            settings, environment(), target, lambda step: bar.show(step.done, step.total, step.table)
        )
    if as_json:
        print_json(restored_json(done))
        return
    rows = {table.name: table.rows for table in done.manifest.tables}
    print_out(f"Moved: {counted(rows)}.")
    print_out(
        "Now set AGENTAPI_DATABASE_URL wherever the program is started, in each client too, and run "
        "`agentapi-mcp doctor`."
    )
    print_err("A client without it goes on with the old database, and what it writes there stays there.")
    if done.secrets:
        print_err("Sealed keys and accounts are there as they were: the program needs the same AGENTAPI_MASTER_KEY.")
    print_lost(done)
    print_err(f"What is in {source.name} is still there: `agentapi-mcp reset`, without the new address, removes it.")
