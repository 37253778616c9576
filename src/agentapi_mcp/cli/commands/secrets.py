"""The commands for the master keys, which seal API keys and accounts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import click

from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.text import listed
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run
from agentapi_mcp.cli.terminal import print_err, print_out

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.keys.models import UnopenedSecret
    from agentapi_mcp.core.services import Services

_MOST_NAMED = 5  # secrets of one master key in a message


@click.group(cls=CommandGroup)
def secrets() -> None:
    """Look after the master keys, which seal what is secret in the database."""


@secrets.command("generate")
@json_option
def secrets_generate(*, as_json: bool) -> None:
    """Print a new master key."""
    key = import_module("agentapi_mcp.app.master_keys").new_master_key()
    if as_json:
        print_json({"master_key": key})
    else:
        print_out(key)


@secrets.command("rotate")
@json_option
def secrets_rotate(*, as_json: bool) -> None:
    """Seal every key and account with the first master key again; may be stopped and begun again at any time."""

    async def rotate(services: Services, _settings: object) -> None:
        keys, accounts = await services.api_keys.rotate(services.principal), await services.accounts.rotate()
        unopened = [*keys.unopened, *accounts.unopened]
        if as_json and not unopened:
            print_json({"sealed": keys.sealed + accounts.sealed})
        else:
            (print_err if as_json else print_out)(f"Sealed again: {keys.sealed + accounts.sealed}.")
        if unopened:
            raise StoreError(_left_as_they_were(unopened))

    run(rotate)


def _left_as_they_were(unopened: Sequence[UnopenedSecret]) -> str:
    """Say which secrets could not be opened, a few by each master key, and what to do for each of those."""
    by_key: dict[str, list[UnopenedSecret]] = {}
    for each in unopened:
        by_key.setdefault(each.master_key, []).append(each)
    which = "; ".join(
        f"{len(some)} by {name!r} ({', '.join(each.name for each in some[:_MOST_NAMED])}"
        f"{', …' if len(some) > _MOST_NAMED else ''})"
        for name, some in sorted(by_key.items())
    )
    steps: list[str] = []
    if absent := sorted({repr(each.master_key) for each in unopened if not each.is_key_given}):
        steps.append(f"Add {listed(absent)} to AGENTAPI_MASTER_KEY, after the first, and run this again.")
    if others := sorted({repr(each.master_key) for each in unopened if each.is_key_given}):
        steps.append(
            f"What has the id {listed(others)} now is another key than the one that sealed them: give it an id of its "
            "own, add the one from before with its id, and run this again."
        )
    return f"Not opened, and left as they were: {which}. {' '.join(steps)} Or their owners bring them again."
