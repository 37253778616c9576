"""The commands for turns."""

from collections.abc import Awaitable

import click

from agentapi_mcp.cli.outputs import print_json, run
from agentapi_mcp.cli.replies import turn_fields
from agentapi_mcp.core.conversations.models import Turn


@click.group()
def turns() -> None:
    """Look at a turn, or end one, from any terminal."""


@turns.command("show")
@click.argument("turn_id")
def turns_show(turn_id: str) -> None:
    """Print a turn as JSON."""
    run(lambda services, _: _show_turn(services.turns.get(services.principal, turn_id)))


@turns.command("cancel")
@click.argument("turn_id")
def turns_cancel(turn_id: str) -> None:
    """End a running turn now; what it said so far is kept."""
    run(lambda services, _: _show_turn(services.turns.cancel(services.principal, turn_id)))


async def _show_turn(turn: Awaitable[Turn]) -> None:
    """Print a turn as JSON, its reply included."""
    print_json(turn_fields(await turn))
