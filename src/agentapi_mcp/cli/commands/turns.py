"""The commands for turns."""

from collections.abc import Awaitable
from dataclasses import replace

import click

from agentapi_mcp.base.text import one_line
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.replies import Fields, turn_fields
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.conversations.models import LISTED_CHARACTERS, Turn
from agentapi_mcp.core.services import Services
from agentapi_mcp.presentation.values import moment

_SHOWN = 60


@click.group()
def turns() -> None:
    """List turns, look at one, or end one, from any terminal."""


@turns.command("list")
@click.option("--running", is_flag=True, help="Only turns that have not ended, in any process.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@json_option
def turns_list(limit: int, *, running: bool, as_json: bool) -> None:
    """List your turns, newest first."""
    run(lambda services, _: _list_turns(services, limit, running=running, as_json=as_json))


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


async def _list_turns(services: Services, limit: int, *, running: bool, as_json: bool) -> None:
    found = await services.turns.recent(services.principal, limit, only_open=running)
    if as_json:
        print_json([_listed_fields(turn) for turn in found])
        return
    rows = [
        (turn.id, turn.status, turn.agent, f"{turn.created_at:%Y-%m-%d %H:%M:%S}", one_line(turn.message, _SHOWN))
        for turn in found
    ]
    table(("TURN", "STATUS", "AGENT", "BEGAN", "MESSAGE"), rows)
    if not found:
        print_err("No turn is running." if running else "There are no turns.")
    elif running:
        print_err("They cost what they cost until they end; `agentapi-mcp turns cancel TURN_ID` ends one.")


async def _show_turn(turn: Awaitable[Turn]) -> None:
    """Print a turn as JSON, its reply included."""
    print_json(_fields(await turn))


def _listed_fields(turn: Turn) -> Fields:
    """Serialize a turn with the beginning of its reply, which is all that was read."""
    is_long = len(turn.reply) > LISTED_CHARACTERS
    return _fields(replace(turn, reply=turn.reply[:LISTED_CHARACTERS])) | {"reply_truncated": is_long}


def _fields(turn: Turn) -> Fields:
    """Serialize a turn with the times that tell how long it has run, which an answer to a message needs not have."""
    times = {"created_at": turn.created_at, "asked_at": turn.asked_at, "ended_at": turn.ended_at}
    return turn_fields(turn) | {name: at and moment(at) for name, at in times.items()}
