"""The commands for agents."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.paging import read_all
from agentapi_mcp.cli.completions import agent_names
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.models import MODEL_COLUMNS, model_row
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import guarded, print_json, run, table
from agentapi_mcp.cli.providers import PROVIDERS, EnteredKey
from agentapi_mcp.cli.terminal import print_err, print_out

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.catalogue.models import AgentRow, AgentView, ModelView
    from agentapi_mcp.core.keys import api_keys
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.core.usage import usage as usages
    from agentapi_mcp.presentation import usage_words, values
else:
    usages = LazyModule("agentapi_mcp.core.usage.usage")
    usage_words = LazyModule("agentapi_mcp.presentation.usage_words")
    values = LazyModule("agentapi_mcp.presentation.values")
    api_keys = LazyModule("agentapi_mcp.core.keys.api_keys")

_UNDECLARED = "undeclared"
_YES = click.option("--yes", is_flag=True, help="Do not ask before the file is written.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show how the file would change, and write nothing.")


@click.group(cls=CommandGroup)
def agents() -> None:
    """See which agents there are, and add or remove your own."""


@agents.command("list")
@click.option("--all", "with_undeclared", is_flag=True, help="Also those that no configuration file declares any more.")
@json_option
def agents_list(*, with_undeclared: bool, as_json: bool) -> None:
    """List every agent, whether it works, and what it lacks."""
    run(lambda services, _: _list_agents(services, with_undeclared=with_undeclared, as_json=as_json))


@agents.command("add", epilog=f"PROVIDER is one of: {', '.join(PROVIDERS)}.")
@click.argument("provider", type=click.Choice(tuple(PROVIDERS)), metavar="[PROVIDER]", required=False)
@click.option("--name", help="What to call the agent; without it, as the provider.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="A model, by the provider's id; the first is the default."
)
@click.option("--base-url", metavar="URL", help="Where the provider's API is, if not at its usual place.")
@click.option("--key-env", metavar="NAME", help="The variable that holds the key, if not the usual one.")
@_YES
@_DRY_RUN
@click.option("--force", is_flag=True, help="Write it untried.")
@json_option
def agents_add(**values: object) -> None:
    """Add an agent to the configuration file: try PROVIDER, show the change, ask, write it.

    Without PROVIDER, list those that can be added, and which servers of this machine answer. The key comes from its
    variable, or is entered at a hidden prompt; it is never an argument, which others could see.
    """
    files = import_module("agentapi_mcp.cli.agent_files")  # slow to import, and the help needs it not
    options = files.AddOptions(**values)
    if options.provider is None:
        guarded(partial(files.show_providers, as_json=options.as_json))
        return
    entered: list[EnteredKey] = []
    guarded(partial(files.add_agent, options, entered.append))
    for key in entered:
        _keep(key)


def _keep(key: EnteredKey) -> None:
    """Seal a key that was entered, where there is a master key; else say where it is to be set."""
    if not key.has_master_key:
        print_err(
            f"The key is kept nowhere: set {key.variable} where the server is started (`connect --env {key.variable}` "
            "hands it on). Or set AGENTAPI_MASTER_KEY (`agentapi-mcp secrets generate` makes one) and seal it by "
            f"`agentapi-mcp keys add {key.provider}`."
        )
        return

    async def seal(services: Services, _settings: object) -> None:
        await services.api_keys.add(services.principal, api_keys.NewApiKey(provider=key.provider, value=key.value))
        print_err(f"Sealed the key as yours for {key.provider}; `agentapi-mcp keys list` shows it.")

    run(seal)


@agents.command("remove")
@click.argument("name", shell_complete=agent_names)
@_YES
@_DRY_RUN
@json_option
def agents_remove(name: str, **given: bool) -> None:
    """Take an agent out of the configuration file, or, where no file declares it, out of the lists.

    In the file, comments and all others stay. Sessions with the agent stay, and so does what they cost.
    """
    files = import_module("agentapi_mcp.cli.agent_files")
    consent, is_in_file = files.Consent(**given), True

    async def remove() -> None:
        nonlocal is_in_file
        is_in_file = await files.remove_agent(name, consent)

    guarded(remove)
    if not is_in_file:
        run(lambda services, _: _remove_undeclared(services, name, consent.given, as_json=given["as_json"]))


async def _remove_undeclared(services: Services, name: str, consented: Callable[[str], bool], *, as_json: bool) -> None:
    is_removed = True
    if name in [row.name for row in await services.undeclared_agents.list_()]:
        stays = "Its sessions and bills stay; a file that declares it brings it back."
        (print_err if as_json else print_out)(f"{name}: no file declares it. {stays}")
        is_removed = consented(f"Remove {name}?")
    if is_removed:
        await services.undeclared_agents.remove(services.principal, name)
        print_err(f"Removed {name}.")
    if as_json:
        print_json({"name": name, "removed": is_removed})


@agents.command("show")
@click.argument("name", shell_complete=agent_names)
@json_option
def agents_show(name: str, *, as_json: bool) -> None:
    """Show one agent with its models."""
    run(lambda services, _: _show_agent(services, name, as_json=as_json))


async def _list_agents(services: Services, *, with_undeclared: bool, as_json: bool) -> None:
    """Print every agent with its state and what it lacks."""
    agents = await read_all(lambda cursor: services.agents.list_(services.principal, cursor=cursor))
    others = await services.undeclared_agents.list_() if with_undeclared else ()
    if as_json:
        default = await services.agents.default(services.principal)
        shown: dict[str, object] = {
            "agents": [_fields(each) for each in agents],
            "default": default,
            "next_cursor": None,
        }
        print_json(shown | ({"undeclared": [*map(_undeclared_fields, others)]} if with_undeclared else {}))
        return
    rows = [_row(agent) for agent in agents]
    rows += [
        (a.name, _UNDECLARED, None, *("",) * 4, f"no file declares it; `agents remove {a.name}` removes it")
        for a in others
    ]
    table(("AGENT", "STATUS", "MODEL", "TURNS", "ANSWERED", "P50", "A TURN", "MISSING OR ABOUT"), rows)


async def _show_agent(services: Services, name: str, *, as_json: bool) -> None:
    """Print one agent with its models."""
    agent = await services.agents.get(services.principal, name)
    if as_json:
        print_json({"agent": _fields(agent), "models": [_model_fields(model) for model in agent.models]})
        return
    print_out(f"{agent.name} ({agent.backend}): {agent.description}")
    print_out(f"status: {agent.health.status}" + (f", {agent.health.last_error}" if agent.health.last_error else ""))
    if agent.backend_reason:
        print_out(f"by {agent.backend}, since {agent.backend_reason}")
    for lack in agent.missing:
        print_out(f"missing: {lack}")
    print_out(usage_words.agent_usage_words(agent.usage, usages.RECENT.days))
    if agent.usage.last_at is not None:
        print_out(f"last used: {values.local_time(agent.usage.last_at)}")
    table((*MODEL_COLUMNS, "DESCRIPTION"), [model_row(model) for model in agent.models])


def _row(agent: AgentView) -> tuple[object, ...]:
    """Return an agent with how it was used in the last thirty days."""
    sums = agent.usage
    rate, median, cost = sums.success_rate, sums.latency(0.5), sums.cost_per_turn_usd
    return (
        agent.name,
        str(agent.health.status),
        agent.default_model,
        f"{sums.turns:,}",
        "" if rate is None else f"{rate:.0%}",
        usage_words.seconds(median),
        "" if cost is None else usage_words.dollars(cost),
        "; ".join(agent.missing) or agent.description,
    )


def _undeclared_fields(agent: AgentRow) -> dict[str, object]:
    return {"name": agent.name, "backend": agent.backend, "description": agent.description}


def _fields(agent: AgentView) -> dict[str, object]:
    """Serialize an agent as the tool `list_agents` does."""
    out = import_module("agentapi_mcp.presentation.agents")  # slow to import, and a table needs none
    fields: dict[str, object] = out.agent_out(agent).model_dump(mode="json")
    return fields


def _model_fields(model: ModelView) -> dict[str, object]:
    """Serialize a model as the tool `list_models` does."""
    out = import_module("agentapi_mcp.presentation.agents")
    fields: dict[str, object] = out.model_out(model).model_dump(mode="json")
    return fields
