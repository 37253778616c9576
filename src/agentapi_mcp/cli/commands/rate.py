"""The command that rates a session or a turn."""

from importlib import import_module
from typing import Any

import click

from agentapi_mcp.cli.completions import session_ids
from agentapi_mcp.cli.found_sessions import find_own_session
from agentapi_mcp.cli.found_turns import find_turn
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.conversations.session_facts import Rating
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings

_FROM_1_TO_5 = click.IntRange(1, 5)


@click.command
@click.argument("id_", metavar="ID", shell_complete=session_ids)
@click.argument("rating", type=_FROM_1_TO_5, required=False)
@click.option("--turn", "is_turn", is_flag=True, help="ID is that of a turn: one answer, and not the whole session.")
@click.option("--usefulness", type=_FROM_1_TO_5, help="How useful a session was.")
@click.option("--note", metavar="TEXT", help="What else is to be said.")
@click.option("--clear", is_flag=True, help="Take the rating back, with its note.")
@json_option
def rate(id_: str, *, is_turn: bool, clear: bool, as_json: bool, **said: Any) -> None:  # noqa: ANN401  # click's
    """Say how good a session or an answer was, from 1 to 5; it replaces what you said before."""

    async def keep(services: Services, _settings: Settings) -> None:
        shown = import_module("agentapi_mcp.presentation.facts")  # slow to import
        rating, facts, who = Rating(**said), services.facts, services.principal
        if is_turn:
            rated = await facts.rate_turn(who, await find_turn(services, id_), rating, clear=clear)
            out = shown.rating_out(rated)
        else:
            session = await facts.rate_session(who, await find_own_session(services, id_), rating, clear=clear)
            out = shown.rating_out(session)
        if as_json:
            print_json(out.model_dump(mode="json"))
        else:
            print_err(shown.rating_line(out))

    run(keep)
