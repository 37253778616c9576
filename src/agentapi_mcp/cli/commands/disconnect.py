"""`agentapi-mcp disconnect`: remove this server from the configuration of an MCP client."""

from functools import partial

import click

from agentapi_mcp.cli import connecting
from agentapi_mcp.cli.known_clients import NAMES
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import guarded


@click.command(epilog=f"CLIENT is one of: {', '.join(NAMES)}.")
@connecting.client_options("Remove the server of this name even if it is another program's.", requires_client=True)
@json_option
def disconnect(**values: object) -> None:
    """Undo `connect`."""
    guarded(partial(connecting.disconnect, connecting.ConnectOptions(**values)))  # type: ignore[arg-type]  # click checked them
