"""The commands for preferences of a user per MCP client."""

from __future__ import annotations

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run
from agentapi_mcp.cli.terminal import print_out

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.catalogue.models import ClientPreferences
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import preferences as presented
else:
    presented = LazyModule("agentapi_mcp.presentation.preferences")

_CLIENT = click.option("--client", metavar="NAME", help="The MCP client; needed only where you have several.")


@click.group(cls=CommandGroup)
def preferences() -> None:
    """See and set what you take in each of your MCP clients."""


@preferences.command("show")
@json_option
def preferences_show(*, as_json: bool) -> None:
    """Show your MCP clients, and what you chose in each."""

    async def show(services: Services, _settings: object) -> None:
        chosen = await services.clients.list_(services.principal)
        if as_json:
            print_json({"clients": [presented.preferences_out(one).model_dump(mode="json") for one in chosen]})
            return
        if not chosen:
            print_out("No MCP client of yours has been here in the last thirty days.")
        for one in chosen:
            _print(one)

    run(show)


@preferences.command("set")
@_CLIENT
@click.argument("name")
@click.argument("value")
@json_option
def preferences_set(name: str, value: str, client: str | None, *, as_json: bool) -> None:
    """Set NAME to VALUE.

    NAME is default_agent, default_model, AGENT.enabled (true or false), AGENT.model, AGENT.temperature,
    AGENT.max_tokens or AGENT.system_prompt.
    """
    _change(name, value, client, as_json=as_json)


@preferences.command("unset")
@_CLIENT
@click.argument("name")
@json_option
def preferences_unset(name: str, client: str | None, *, as_json: bool) -> None:
    """Take NAME back."""
    _change(name, None, client, as_json=as_json)


def _change(name: str, value: str | None, client: str | None, *, as_json: bool) -> None:
    async def change(services: Services, _settings: object) -> None:
        found = await services.clients.find_client(services.principal, client)
        changed = await services.clients.change(services.principal, found, name, value)
        if as_json:
            print_json(presented.preferences_out(changed).model_dump(mode="json"))
        else:
            _print(changed)

    run(change)


def _print(chosen: ClientPreferences) -> None:
    lines = presented.preference_lines(presented.preferences_out(chosen))
    print_out(f"{chosen.client}:{'' if lines else ' nothing chosen'}")
    for line in lines:
        print_out(f"  {line}")
