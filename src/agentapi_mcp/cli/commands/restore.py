"""`agentapi-mcp restore`: load a backup into an empty place, or in place of what is there."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path

import click

from agentapi_mcp.base.errors import ConflictError
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.configured import read_settings
from agentapi_mcp.cli.consent import ask, counted, read_passphrase, sealed, yes_option
from agentapi_mcp.cli.options import FILE, json_option
from agentapi_mcp.cli.outputs import guarded, print_json
from agentapi_mcp.cli.progress import progress
from agentapi_mcp.cli.signals import unwound_by_signals
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.environ import environment
from agentapi_mcp.presentation.values import local_time

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.app import backups
    from agentapi_mcp.app.backups import Restored
    from agentapi_mcp.settings import Settings
else:
    backups = LazyModule("agentapi_mcp.app.backups")


@click.command()
@click.argument("file", type=FILE)
@click.option("--replace", is_flag=True, help="In place of what is there, which is lost.")
@click.option("--keys-to", type=FILE, metavar="FILE", help="Write the master keys of the backup to this new file.")
@yes_option
@json_option
def restore(file: Path, *, replace: bool, keys_to: Path | None, yes: bool, as_json: bool) -> None:
    """Load the backup FILE; nothing else may work with the database meanwhile."""
    guarded(partial(_restore, file, replace=replace, keys_to=keys_to, yes=yes, as_json=as_json))


async def _restore(file: Path, *, replace: bool, keys_to: Path | None, yes: bool, as_json: bool) -> None:
    settings = read_settings()
    with backups.open_backup(file) as backup:
        backups.check_version(backup)
        keys = None
        if keys_to is not None:
            backups.check_new(keys_to)
            passphrase = read_passphrase(is_new=False)
            keys = backups.KeysFile(keys_to, await backups.unseal_keys(backup, passphrase))
        await _agree(settings, replace=replace, yes=yes)
        with unwound_by_signals(), progress(f"Restoring {file}", is_lines=settings.screen_reader) as bar:
            done = await backups.restore(
                settings, environment(), backup, lambda step: bar.show(step.done, step.total, step.table), keys
            )
    if as_json:
        print_json(restored_json(done, keys_to))
    else:
        _print(done, keys_to)


async def _agree(settings: Settings, *, replace: bool, yes: bool) -> None:
    place = await backups.look(settings, environment())
    if not place.rows:
        return
    what = f"In {place.name}: {counted(place.rows)}."
    if not replace:
        raise ConflictError(f"{what} --replace restores the backup in place of that. Nothing was changed.")
    ask(f"{what} All of it will go, and the backup takes its place. Go on?", yes=yes)


def _print(done: Restored, keys_to: Path | None) -> None:
    """Say what was loaded, and what is lost."""
    rows = {table.name: table.rows for table in done.manifest.tables}
    made_at = local_time(datetime.fromisoformat(done.manifest.made_at), seconds=True)
    print_out(f"Restored what was there on {made_at}: {counted(rows)}.")
    if done.config is not None:
        print_out(f"The configuration file is {done.config}.")
        print_out("It says which programs and servers agents run: look at it, unless the backup is your own.")
    if done.kept_config is not None:
        print_err(f"{done.kept_config} was kept; the backup has another agentapi.toml, which unzip(1) takes out.")
    if done.config_fault is not None:
        print_err(f"{done.config_fault}; the backup has the configuration file, which unzip(1) takes out.")
    if keys_to is not None:
        print_out(
            f"The master keys are in {keys_to}: set AGENTAPI_MASTER_KEY_FILE={keys_to} where the server is started."
        )
    print_lost(done)


def restored_json(done: Restored, keys_to: Path | None = None) -> dict[str, object]:
    """Return what was loaded, and what is lost, for programs."""
    return {
        "made_at": done.manifest.made_at,
        "rows": {table.name: table.rows for table in done.manifest.tables},
        "sealed": len(done.secrets),
        "lost": [
            {
                "kind": each.kind,
                "name": each.name,
                "provider": each.provider,
                "whose": each.whose,
                "key_id": each.key_id,
            }
            for each in done.lost
        ],
        "configuration_file": done.config and str(done.config),
        "kept_configuration_file": done.kept_config and str(done.kept_config),
        "configuration_file_error": done.config_fault,
        "master_keys_file": keys_to and str(keys_to),
    }


def print_lost(done: Restored) -> None:
    """Name what no master key opens, and what can be done."""
    if not done.lost:
        return
    print_err(f"No master key here opens {sealed([each.kind for each in done.lost])}:")
    for each in done.lost:
        print_err(f"  the {each.kind} {each.name!r} for {each.provider}, of {each.whose} (master key {each.key_id!r})")
    way = "restore again with --keys-to FILE, or set" if done.manifest.master_keys else "set"
    print_err(
        f"To use them, {way} AGENTAPI_MASTER_KEY to the one that sealed them; else their owners bring them again."
    )
