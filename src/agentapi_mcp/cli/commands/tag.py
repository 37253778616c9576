"""The command that tags sessions."""

from __future__ import annotations

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.completions import session_ids
from agentapi_mcp.cli.found_sessions import find_own_session
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import run
from agentapi_mcp.cli.said_sessions import print_said

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.conversations import session_facts
    from agentapi_mcp.core.services import Services
else:
    session_facts = LazyModule("agentapi_mcp.core.conversations.session_facts")


@click.command
@click.argument("session_id", shell_complete=session_ids)
@click.argument("tags", nargs=-1)
@click.option("--remove", "removed", multiple=True, metavar="TAG", help="Take a tag away; may be said several times.")
@click.option("--type", "interaction_type", metavar="TYPE", help="Of what kind it is, such as coding or writing.")
@json_option
def tag(
    session_id: str, tags: tuple[str, ...], removed: tuple[str, ...], interaction_type: str | None, *, as_json: bool
) -> None:
    """Tag a session, and say of what kind it is; `sessions list --tag TAG` finds it.

    Answers that come from then on are counted as of that kind.
    """

    async def keep(services: Services, _settings: object) -> None:
        found = await find_own_session(services, session_id)
        tagging = session_facts.Tagging(add=tags, remove=removed, interaction_type=interaction_type)
        print_said(await services.facts.tag(services.principal, found, tagging), as_json=as_json)

    run(keep)
