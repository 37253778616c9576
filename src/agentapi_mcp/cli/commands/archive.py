"""The command that archives sessions."""

from __future__ import annotations

import click

from agentapi_mcp.cli.completions import session_ids
from agentapi_mcp.cli.found_sessions import find_own_session
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import run
from agentapi_mcp.cli.said_sessions import print_said

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.services import Services


@click.command
@click.argument("session_id", shell_complete=session_ids)
@click.option("--undo", is_flag=True, help="Take it out of the archive.")
@json_option
def archive(session_id: str, *, undo: bool, as_json: bool) -> None:
    """Leave a session out of lists, or take that back; nothing is deleted, and `sessions list --all` shows it."""

    async def keep(services: Services, _settings: object) -> None:
        found = await find_own_session(services, session_id)
        print_said(await services.facts.archive(services.principal, found, undo=undo), as_json=as_json)

    run(keep)
