"""The command that rates a session or a turn."""

from __future__ import annotations

from typing import Any

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.completions import session_ids
from agentapi_mcp.cli.found_sessions import find_own_session
from agentapi_mcp.cli.found_turns import find_turn
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run
from agentapi_mcp.cli.terminal import print_err

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.conversations import session_facts
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import facts as shown
else:
    session_facts = LazyModule("agentapi_mcp.core.conversations.session_facts")
    shown = LazyModule("agentapi_mcp.presentation.facts")

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

    async def keep(services: Services, _settings: object) -> None:
        rating, facts, who = session_facts.Rating(**said), services.facts, services.principal
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
