"""The command that undoes `connect`."""

from functools import partial

import click

from agentapi_mcp.cli import connecting
from agentapi_mcp.cli.outputs import guarded


@click.command()
@connecting.client_options
def disconnect(**given: object) -> None:
    """Undo `connect`."""
    guarded(partial(connecting.disconnect, connecting.ConnectOptions(**given)))  # type: ignore[arg-type]  # click checked them
