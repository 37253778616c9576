"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path

import click

from agentapi_mcp.edges.mcp.options import DEFAULT_TOOLSET
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names

FILE = click.Path(dir_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
toolsets_option = click.option(
    "--toolsets",
    metavar="NAMES",
    help=f"Which tools clients see: {', '.join(toolset_names())}; by default {DEFAULT_TOOLSET}.",
)

tool_prefix_option = click.option(
    "--tool-prefix", metavar="TEXT", help="What every tool's name begins with, such as house_."
)


def in_organization(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option that selects another of the user's organisations."""
    option = click.option("--org", "org_id", type=click.UUID, metavar="ORG_ID", help="In this organisation of yours.")
    return option(command)
