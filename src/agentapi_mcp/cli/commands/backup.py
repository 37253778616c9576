"""`agentapi-mcp backup`: everything that the program keeps, in one file."""

from functools import partial
from pathlib import Path

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.configured import read_settings
from agentapi_mcp.cli.consent import ask, counted, read_passphrase, sealed, size, yes_option
from agentapi_mcp.cli.options import FILE, json_option
from agentapi_mcp.cli.outputs import guarded, print_json
from agentapi_mcp.cli.progress import progress
from agentapi_mcp.cli.signals import unwound_by_signals
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.environ import environment

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    import asyncio

    from agentapi_mcp.app import backups
else:
    backups = LazyModule("agentapi_mcp.app.backups")
    asyncio = LazyModule("asyncio")


@click.command()
@click.argument("file", type=FILE)
@click.option("--with-keys", is_flag=True, help="With the master keys, sealed by a passphrase that is asked for.")
@yes_option
@json_option
def backup(file: Path, *, with_keys: bool, yes: bool, as_json: bool) -> None:
    """Write all sessions, turns, accounts and settings to FILE; servers and clients may go on."""
    guarded(partial(_backup, file, with_keys=with_keys, yes=yes, as_json=as_json))


async def _backup(file: Path, *, with_keys: bool, yes: bool, as_json: bool) -> None:
    settings = read_settings()
    backups.check_place(file)
    if await asyncio.to_thread(file.exists):
        ask(f"{file} is there already. Write over it?", yes=yes)
    passphrase = read_passphrase(is_new=True) if with_keys else None
    what = f"Backing up {backups.place_name(settings, environment())}"
    with unwound_by_signals(), progress(what, is_lines=settings.screen_reader) as bar:
        made = await backups.make_backup(
            settings,
            environment(),
            file,
            lambda step: bar.show(step.done, step.total, step.table),
            passphrase,
        )
    rows = {table.name: table.rows for table in made.manifest.tables}
    if as_json:
        print_json(
            {
                "file": str(file),
                "bytes": made.size,
                "made_at": made.manifest.made_at,
                "rows": rows,
                "has_configuration_file": made.manifest.has_config,
                "master_keys": list(made.manifest.master_keys),
                "sealed": len(made.secrets),
            }
        )
        return
    print_out(f"{file}: {size(made.size)}, {counted(rows)}.")
    print_err("Every message is in it in clear text; only you may read the file.")
    if made.secrets and not with_keys:
        print_err(
            f"The master key is not in it, without which {sealed([each.kind for each in made.secrets])} cannot "
            "be opened: keep it elsewhere, or make the backup with --with-keys."
        )
