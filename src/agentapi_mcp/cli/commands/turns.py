"""The commands for turns."""

from __future__ import annotations

from dataclasses import replace

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.text import one_line
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.ids import TURN, check_part, find_id, whole_id
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.presentation.values import local_time, moment

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.cli import replies
    from agentapi_mcp.core.conversations import models
    from agentapi_mcp.core.conversations.models import Turn
    from agentapi_mcp.core.services import Services
else:
    models = LazyModule("agentapi_mcp.core.conversations.models")
    replies = LazyModule("agentapi_mcp.cli.replies")

_SHOWN = 60
_LONGEST = 1000


@click.group(cls=CommandGroup)
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
@json_option
def turns_show(turn_id: str, *, as_json: bool) -> None:
    """Show a turn: its status, its bill, the message and the reply so far."""
    run(lambda services, _: _show_turn(services, turn_id, as_json=as_json))


@turns.command("cancel")
@click.argument("turn_id")
@json_option
def turns_cancel(turn_id: str, *, as_json: bool) -> None:
    """End a running turn now; what it said so far is kept."""
    run(lambda services, _: _cancel_turn(services, turn_id, as_json=as_json))


async def _list_turns(services: Services, limit: int, *, running: bool, as_json: bool) -> None:
    read = await services.turns.recent(services.principal, limit + 1, only_open=running)
    found = read[:limit]
    if as_json:
        print_json({"turns": [_listed_fields(turn) for turn in found]})
        return
    rows = [
        (
            turn.id,
            turn.status,
            turn.agent,
            local_time(turn.created_at, seconds=True),
            _took(turn),
            _cost(turn),
            one_line(turn.message, _SHOWN),
        )
        for turn in found
    ]
    table(("TURN", "STATUS", "AGENT", "BEGAN", "TOOK (S)", "COST ($)", "MESSAGE"), rows)
    if len(read) > limit:
        print_err(f"There are more, older ones: say a higher --limit. Shown: {limit}.")
    if not found:
        print_err("No turn is running." if running else "There are no turns.")
    elif running:
        print_err("They cost what they cost until they end; `agentapi-mcp turns cancel TURN_ID` ends one.")


def _took(turn: Turn) -> str:
    return "" if turn.ended_at is None else f"{(turn.ended_at - turn.created_at).total_seconds():.1f}"


def _cost(turn: Turn) -> str:
    cost = turn.bill.usage.cost_usd
    return "unknown" if cost is None else f"{cost:f}"


async def _show_turn(services: Services, turn_id: str, *, as_json: bool) -> None:
    """Print a turn, its reply included."""
    _print(await services.turns.get(services.principal, await _find_turn(services, turn_id)), as_json=as_json)


async def _cancel_turn(services: Services, turn_id: str, *, as_json: bool) -> None:
    """End a turn, and print what became of it."""
    _print(await services.turns.cancel(services.principal, await _find_turn(services, turn_id)), as_json=as_json)


async def _find_turn(services: Services, text: str) -> str:
    """Return the full id of the turn whose id begins or ends with a text."""
    whole = whole_id(text)
    if whole is not None:
        return whole
    check_part(text, TURN)
    return find_id(map(str, await services.turns.ids_like(services.principal, text)), text, TURN)


def _print(turn: Turn, *, as_json: bool) -> None:
    fields = _fields(turn)
    if as_json:
        print_json(fields)
        return
    times = {"began": turn.created_at, "asked": turn.asked_at, "ended": turn.ended_at}
    print_out(f"turn: {turn.id}")
    print_out(f"session: {turn.session_id}")
    for name, at in times.items():
        print_out(f"{name}: {'not yet' if at is None else local_time(at, seconds=True)}")
    print_out(f"message: {one_line(turn.message, _LONGEST)}")
    print_out("")
    if turn.reply:
        print_out(f"{turn.reply}\n")
    print_out(str(fields["text"]))


def _listed_fields(turn: Turn) -> replies.Fields:
    """Serialize a turn with the beginning of its reply, which is all that was read."""
    is_long = len(turn.reply) > models.LISTED_CHARACTERS
    return _fields(replace(turn, reply=turn.reply[: models.LISTED_CHARACTERS])) | {"reply_truncated": is_long}


def _fields(turn: Turn) -> replies.Fields:
    """Serialize a turn with the times that tell how long it has run, which an answer to a message needs not have."""
    times = {"created_at": turn.created_at, "asked_at": turn.asked_at, "ended_at": turn.ended_at}
    return replies.turn_fields(turn) | {name: at and moment(at) for name, at in times.items()}
