"""`agentapi-mcp reset`: begin anew, without anything that was kept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import click

from agentapi_mcp.base.errors import StoreBusyError, StoreError
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.configured import read_settings
from agentapi_mcp.cli.consent import ask, counted, size, yes_option
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import explain, guarded, print_json
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.environ import environment

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    import asyncio

    from agentapi_mcp.app import backups, homes
    from agentapi_mcp.settings import Settings
else:
    backups = LazyModule("agentapi_mcp.app.backups")
    homes = LazyModule("agentapi_mcp.app.homes")
    asyncio = LazyModule("asyncio")


@click.command()
@yes_option
@json_option
def reset(*, yes: bool, as_json: bool) -> None:
    """Remove all sessions, turns, accounts and keys; the configuration file stays."""
    guarded(partial(_reset, yes=yes, as_json=as_json))


async def _reset(*, yes: bool, as_json: bool) -> None:
    settings = read_settings()
    place = backups.place_name(settings, environment())
    embedded = backups.is_embedded(settings)
    if embedded and not homes.has_data(settings, environment()):
        _print(place, {}, None, as_json=as_json)
        return
    rows = await _rows(settings, is_embedded=embedded)
    on_disk = homes.data_size(settings, environment()) if embedded else None
    what = f", {size(on_disk)} on disk" if on_disk is not None else ""
    print_err(f"In {place}: {counted(rows)}{what}. All of it will go, for good.")
    ask("`agentapi-mcp backup FILE` keeps it. Remove it all?", yes=yes)
    if embedded:
        await asyncio.to_thread(homes.remove_data, settings, environment())
    else:
        await backups.empty(settings, environment())
    _print(place, rows, on_disk, as_json=as_json)


async def _rows(settings: Settings, *, is_embedded: bool) -> Mapping[str, int]:
    try:
        return (await backups.look(settings, environment())).rows
    except StoreBusyError:
        raise
    except StoreError as exc:
        if not is_embedded:
            raise
        # One that is broken can be removed all the same.
        print_err(f"What is in it cannot be read: {explain(exc)}")
        return {}


def _print(place: str, rows: Mapping[str, int], on_disk: int | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"place": place, "removed": on_disk is not None or bool(rows), "rows": rows, "bytes": on_disk})
    elif on_disk is None and not rows:
        print_out(f"There is nothing in {place}.")
    else:
        print_out(f"Removed: {counted(rows)} in {place}.")
        print_err(
            "The next start begins anew." if on_disk is not None else "`agentapi-mcp migrate` makes the tables anew."
        )
