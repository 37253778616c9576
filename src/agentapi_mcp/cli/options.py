"""Options that several commands share."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import click
from typing_extensions import override

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.edges.mcp.options import DEFAULT_TOOLSET
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names

TYPE_CHECKING = False  # type checkers take it for true; most commands take no amount
if TYPE_CHECKING:
    from agentapi_mcp.core.budgets import amounts
else:
    amounts = LazyModule("agentapi_mcp.core.budgets.amounts")


class Dollars(click.ParamType[Decimal]):
    """An amount in US dollars, with a dollar sign or without."""

    name = "dollars"

    @override
    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Parse an amount that a store can hold."""
        if isinstance(value, Decimal):
            return value
        try:
            return amounts.parse_amount(str(value), "")
        except InvalidRequestError as exc:
            self.fail(exc.message, param, ctx)


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
