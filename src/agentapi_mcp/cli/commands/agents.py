"""The commands for agents."""

import click

from agentapi_mcp.base.paging import read_all
from agentapi_mcp.cli.models import model_json, model_row
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import print_out
from agentapi_mcp.core.catalogue.models import AgentView
from agentapi_mcp.core.services import Services


@click.group()
def agents() -> None:
    """See which agents there are."""


@agents.command("list")
@json_option
def agents_list(*, as_json: bool) -> None:
    """List every agent, whether it works, and what it lacks."""
    run(lambda services, _: _list_agents(services, as_json=as_json))


@agents.command("show")
@click.argument("name")
@json_option
def agents_show(name: str, *, as_json: bool) -> None:
    """Show one agent with its models."""
    run(lambda services, _: _show_agent(services, name, as_json=as_json))


async def _list_agents(services: Services, *, as_json: bool) -> None:
    """Print every agent with its state and what it lacks."""
    agents = await read_all(lambda cursor: services.agents.list_(services.principal, cursor=cursor))
    if as_json:
        print_json([_fields(agent) for agent in agents])
        return
    rows = [(a.name, a.health.status, a.default_model, "; ".join(a.missing) or a.description) for a in agents]
    table(("AGENT", "STATUS", "MODEL", "MISSING OR ABOUT"), rows)


async def _show_agent(services: Services, name: str, *, as_json: bool) -> None:
    """Print one agent with its models."""
    agent = await services.agents.get(services.principal, name)
    if as_json:
        print_json(_fields(agent))
        return
    print_out(f"{agent.name} ({agent.backend}): {agent.description}")
    print_out(f"status: {agent.health.status}" + (f", {agent.health.last_error}" if agent.health.last_error else ""))
    if agent.backend_reason:
        print_out(f"by {agent.backend}, since {agent.backend_reason}")
    for lack in agent.missing:
        print_out(f"missing: {lack}")
    table(("MODEL", "CONTEXT", "IN $/M", "OUT $/M"), [model_row(model) for model in agent.models])


def _fields(agent: AgentView) -> dict[str, object]:
    return {
        "name": agent.name,
        "backend": agent.backend,
        "backend_reason": agent.backend_reason,
        "description": agent.description,
        "enabled": agent.enabled,
        "status": str(agent.health.status),
        "missing": list(agent.missing),
        "default_model": agent.default_model,
        "models": [model_json(model) for model in agent.models],
    }
