"""The commands for models."""

import click

from agentapi_mcp.cli.models import model_json, model_row
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.core.services import Services


@click.group()
def models() -> None:
    """See which models there are."""


@models.command("list")
@click.option("--agent", help="Of this agent only.")
@json_option
def models_list(agent: str | None, *, as_json: bool) -> None:
    """List the models of every agent, with context window and prices."""
    run(lambda services, _: _list_models(services, agent, as_json=as_json))


async def _list_models(services: Services, agent: str | None, *, as_json: bool) -> None:
    """Print the models of all agents, or of one."""
    models = (await services.agents.models(services.principal, agent=agent, limit=500)).items
    if as_json:
        print_json([model_json(model) for model in models])
        return
    rows = [(model.agent, *model_row(model)) for model in models]
    table(("AGENT", "MODEL", "CONTEXT", "IN $/M", "OUT $/M"), rows)
