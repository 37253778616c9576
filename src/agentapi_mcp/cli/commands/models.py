"""The commands for models."""

from functools import partial
from importlib import import_module

import click

from agentapi_mcp.base.paging import read_all
from agentapi_mcp.cli.completions import agent_names
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.models import MODEL_COLUMNS, model_row
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import guarded, print_json, run, table
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.services import Services


@click.group(cls=CommandGroup)
def models() -> None:
    """See which models there are, and bring what the provider's list says of them."""


@models.command("list")
@click.option("--agent", shell_complete=agent_names, help="Of this agent only.")
@json_option
def models_list(agent: str | None, *, as_json: bool) -> None:
    """List the models of every agent, with context window and prices."""
    run(lambda services, _: _list_models(services, agent, as_json=as_json))


@models.command("sync")
@click.argument("agent", shell_complete=agent_names)
@click.option("--all", "adds_all", is_flag=True, help="Add every other model of the list, too.")
@click.option("--yes", is_flag=True, help="Do not ask before the file is written.")
@click.option("--dry-run", is_flag=True, help="Show how the file would change, and write nothing.")
@json_option
def models_sync(agent: str, *, adds_all: bool, **consent: bool) -> None:
    """Bring context windows, output limits and prices from the provider's own list into the configuration file."""
    sync = import_module("agentapi_mcp.cli.model_sync")  # slow to import, and the help needs it not
    guarded(partial(sync.sync_models, agent, adds_all=adds_all, consent=sync.Consent(**consent)))


async def _list_models(services: Services, agent: str | None, *, as_json: bool) -> None:
    """Print the models of all agents, or of one."""
    models = await read_all(lambda cursor: services.agents.models(services.principal, agent=agent, cursor=cursor))
    if as_json:
        out = import_module("agentapi_mcp.presentation.agents")  # slow to import, and a table needs none
        print_json({"models": [out.model_out(model).model_dump(mode="json") for model in models], "next_cursor": None})
        return
    table(("AGENT", *MODEL_COLUMNS, "DESCRIPTION"), [(model.agent, *model_row(model)) for model in models])
    if not models:
        print_err("There is no model.")
