"""The commands for the master keys, which seal API keys and accounts."""

from collections import Counter
from importlib import import_module

import click

from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.core.services import Services


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
        unopened = Counter(keys.unopened) + Counter(accounts.unopened)
        if as_json and not unopened:
            print_json({"sealed": keys.sealed + accounts.sealed})
        else:
            (print_err if as_json else print_out)(f"Sealed again: {keys.sealed + accounts.sealed}.")
        if unopened:
            which = ", ".join(f"{count} by {name!r}" for name, count in sorted(unopened.items()))
            raise StoreError(
                f"Not opened, and left as they were: {which}. Add the master key that sealed them to "
                "AGENTAPI_MASTER_KEY, after the first, and run this again; or their owners bring them again."
            )

    run(rotate)
