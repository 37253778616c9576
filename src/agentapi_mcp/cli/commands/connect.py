"""`agentapi-mcp connect`: configure an MCP client to start this server."""

from functools import partial

import click

from agentapi_mcp.cli import connecting
from agentapi_mcp.cli.known_clients import NAMES
from agentapi_mcp.cli.options import json_option, tool_prefix_option, toolsets_option
from agentapi_mcp.cli.outputs import guarded


@click.command(epilog=f"CLIENT is one of: {', '.join(NAMES)}.")
@click.option("--env", multiple=True, metavar="NAME", help="Hand this variable on, by reference where it can be.")
@click.option(
    "--print", "only_print", is_flag=True, help="Show what to paste where, without values, and write nothing."
)
@click.option("--yes", is_flag=True, help="Connect every client that is found without asking.")
@toolsets_option
@tool_prefix_option
@json_option
@connecting.client_options(
    "Replace another server of this name, write though the client was never used here, and start no trial.",
    requires_client=False,
)
def connect(**values: object) -> None:
    """Make an MCP client start this server: try that, then write its configuration.

    Without CLIENT, find those that are installed, show what would change, ask, and connect them all.
    """
    guarded(partial(connecting.connect, connecting.ConnectOptions(**values)))  # type: ignore[arg-type]  # click checked them
