"""`agentapi-mcp uninstall`: leave nothing of the program on this machine but the program itself."""

from functools import partial

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.consent import yes_option
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import guarded

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.cli import uninstalling
else:
    uninstalling = LazyModule("agentapi_mcp.cli.uninstalling")


@click.command()
@yes_option
@json_option
def uninstall(*, yes: bool, as_json: bool) -> None:
    """Take this server out of the clients, and remove all that it keeps on this machine."""
    guarded(partial(uninstalling.uninstall, yes=yes, as_json=as_json))
