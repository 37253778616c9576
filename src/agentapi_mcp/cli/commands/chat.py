"""`agentapi-mcp chat`: send messages to an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module

import click

from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.completions import agent_names, model_names, session_ids
from agentapi_mcp.cli.configured import read_settings
from agentapi_mcp.cli.options import Dollars, json_option
from agentapi_mcp.cli.outputs import guarded, run
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.services import Services
from agentapi_mcp.environ import environment

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.settings import Settings


@click.command()
@click.argument("message", nargs=-1)
@click.option("--agent", shell_complete=agent_names, help="Which agent to ask; without it the first usable one.")
@click.option("--model", shell_complete=model_names, help="Which of the agent's models.")
@click.option(
    "--session", "session_id", metavar="SESSION_ID", shell_complete=session_ids, help="Go on with this session."
)
@click.option("--continue", "newest", is_flag=True, help="Go on with the newest session.")
@click.option("--system", "system_prompt", help="Instructions for this turn.")
@click.option("--temperature", type=float)
@click.option("--max-tokens", type=int)
@click.option(
    "--max-cost", "max_cost_usd", type=Dollars(), metavar="DOLLARS", help="Ask nobody if the turn may cost more."
)
@click.option("--estimate", is_flag=True, help="Only say what the message may cost, and what is left for it.")
@click.option("--idempotency-key", help="The same key and message find the same turn for 24 hours.")
@click.option("--retry", is_flag=True, help="Ask again what was interrupted after it was asked; it may cost twice.")
@click.option("--new", is_flag=True, help="Ask anew, although an earlier turn of the same message may answer it.")
@click.option("--via-mcp", is_flag=True, help="Start the real MCP server over stdio and talk through it.")
@click.option("--screen-reader", is_flag=True, help="Only print lines, for a screen reader: never move the cursor.")
@json_option
def chat(message: tuple[str, ...], *, via_mcp: bool, **values: object) -> None:
    """Ask an agent: one MESSAGE, a message from a pipe, or a conversation."""
    parameters = Parameters(**{name: values.pop(name) for name in ("system_prompt", "temperature", "max_tokens")})  # type: ignore[arg-type]  # click checked them
    _check(values)
    options = ChatOptions(parameters=parameters, **values)  # type: ignore[arg-type]  # click checked them
    text = " ".join(message) if message else None

    async def hold(client: object, settings: Settings) -> None:
        reads = options.screen_reader or settings.screen_reader
        home = import_module("agentapi_mcp.app.home").home_of(settings, environment())
        single = import_module("agentapi_mcp.cli.chat.single")  # slow to import, and the help needs none
        await single.chat(client, replace(options, screen_reader=reads), text, home=home, environ=environment())

    async def chat_in_process(services: Services, settings: Settings) -> None:
        await hold(import_module("agentapi_mcp.cli.chat.clients").InProcessChatClient(services), settings)

    async def chat_via_mcp() -> None:
        settings = read_settings()
        via = import_module("agentapi_mcp.cli.via_mcp")  # slow to import, needed only here
        async with via.open_mcp_chat_client() as client:
            await hold(client, settings)

    if via_mcp:
        guarded(chat_via_mcp)
    else:
        run(chat_in_process)


def _check(values: Mapping[str, object]) -> None:
    """Refuse options that contradict each other, before anything is opened."""
    if values["newest"] and values["session_id"] is not None:
        raise click.UsageError("--continue and --session name two sessions: say one of them.")
    if values["retry"] and values["new"]:
        raise click.UsageError("--retry asks an interrupted turn again, --new asks anew: say one of them.")
    if values["new"] and values["idempotency_key"] is not None:
        raise click.UsageError("--new asks anew, --idempotency-key finds what was asked: say a new key instead.")
