"""The commands, as they are typed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import click

from agentapi_mcp.app.maintenance import Preview, migrate_database, migration_states, preview_migration
from agentapi_mcp.cli import listings, organizations, stdio
from agentapi_mcp.cli.audit import audit
from agentapi_mcp.cli.chats import ChatOptions, DirectTalk, chat
from agentapi_mcp.cli.connecting import ConnectOptions, connect, disconnect
from agentapi_mcp.cli.doctor import examine
from agentapi_mcp.cli.keys import keys, secrets
from agentapi_mcp.cli.mcp_clients import NAMES
from agentapi_mcp.cli.members import in_organization, members
from agentapi_mcp.cli.outputs import guarded, note, run, say, table
from agentapi_mcp.cli.preferences import preferences
from agentapi_mcp.cli.serve import ServeOptions, fast_loops, serve_http
from agentapi_mcp.cli.tokens import tokens
from agentapi_mcp.cli.via_mcp import open_mcp_talk
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import DEFAULT_TOOLSET
from agentapi_mcp.settings import TOOLSETS, VERSION, Settings, environment, load_settings
from agentapi_mcp.telemetry import configure_logs

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FILE = click.Path(dir_okay=False, path_type=Path)


_TOOLSETS = click.option(
    "--toolsets",
    metavar="NAMES",
    help=f"Which tools clients see: {', '.join(TOOLSETS)}; by default {DEFAULT_TOOLSET}.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(VERSION, prog_name="agentapi-mcp")
@_TOOLSETS
@click.pass_context
def main(context: click.Context, toolsets: str | None) -> None:
    """Talk to all your agents through one MCP server. Without a command, be that server, over stdio."""
    if context.invoked_subcommand is None:
        stdio.main(toolsets)
    elif toolsets is not None:
        raise click.UsageError("--toolsets without a command is for the server over stdio; else: serve --toolsets.")


main.add_command(audit)


@main.command("chat")
@click.argument("message", nargs=-1)
@click.option("--agent", help="Which agent to ask; without it the first usable one.")
@click.option("--model", help="Which of the agent's models.")
@click.option("--session", "session_id", metavar="SESSION_ID", help="Go on with this session.")
@click.option("--continue", "newest", is_flag=True, help="Go on with the newest session.")
@click.option("--system", "system_prompt", help="Instructions for this turn.")
@click.option("--temperature", type=float)
@click.option("--max-tokens", type=int)
@click.option("--idempotency-key", help="The same key and message find the same turn for 24 hours.")
@click.option("--via-mcp", is_flag=True, help="Start the real MCP server over stdio and talk through it.")
@_JSON
def chat_command(message: tuple[str, ...], *, via_mcp: bool, **given: object) -> None:
    """Ask an agent: one MESSAGE, a message from a pipe, or a conversation."""
    parameters = Parameters(**{name: given.pop(name) for name in ("system_prompt", "temperature", "max_tokens")})  # type: ignore[arg-type]  # click checked them
    if given["newest"] and given["session_id"] is not None:
        raise click.UsageError("--continue and --session name two sessions: say one of them.")
    options = ChatOptions(parameters=parameters, **given)  # type: ignore[arg-type]  # click checked them
    text = " ".join(message) if message else None

    async def here(services: Services, _settings: Settings) -> None:
        await chat(DirectTalk(services), options, text)

    async def through() -> None:
        configure_logs(load_settings().log_level)
        async with open_mcp_talk() as talk:
            await chat(talk, options, text)

    if via_mcp:
        guarded(through)
    else:
        run(here)


@main.group()
def agents() -> None:
    """See which agents there are."""


@agents.command("list")
@_JSON
def agents_list(*, as_json: bool) -> None:
    """List every agent, whether it works, and what it lacks."""
    run(lambda services, _: listings.list_agents(services, as_json=as_json))


@agents.command("show")
@click.argument("name")
@_JSON
def agents_show(name: str, *, as_json: bool) -> None:
    """Show one agent with its models."""
    run(lambda services, _: listings.show_agent(services, name, as_json=as_json))


@main.group()
def models() -> None:
    """See which models there are."""


@models.command("list")
@click.option("--agent", help="Of this agent only.")
@_JSON
def models_list(agent: str | None, *, as_json: bool) -> None:
    """List the models of every agent, with context window and prices."""
    run(lambda services, _: listings.list_models(services, agent, as_json=as_json))


@main.group()
def sessions() -> None:
    """Find, read, export, rename and delete conversations."""


@sessions.command("list")
@click.option("--agent", help="Of this agent only.")
@click.option("--query", help="Search titles and first messages.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@_JSON
def sessions_list(agent: str | None, query: str | None, limit: int, *, as_json: bool) -> None:
    """List sessions, newest first."""
    run(lambda services, _: listings.list_sessions(services, agent, query, limit, as_json=as_json))


@sessions.command("show")
@click.argument("session_id")
def sessions_show(session_id: str) -> None:
    """Print a session's transcript with the bill of each answer."""
    run(lambda services, _: listings.export_session(services, session_id, "markdown", None))


@sessions.command("export")
@click.argument("session_id")
@click.option("--format", "form", type=click.Choice(["markdown", "json"]), default="markdown", show_default=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; stdout without it.")
def sessions_export(session_id: str, form: str, output: Path | None) -> None:
    """Write a session's transcript."""
    run(lambda services, _: listings.export_session(services, session_id, form, output))


@sessions.command("rename")
@click.argument("session_id")
@click.argument("title")
def sessions_rename(session_id: str, title: str) -> None:
    """Give a session another title."""

    async def rename(services: Services, _settings: Settings) -> None:
        found = await listings.find_session(services, session_id)
        await services.sessions.rename(services.principal, found, title)
        note(f"Renamed {found}.")

    run(rename)


@sessions.command("delete")
@click.argument("session_id")
@click.option("--yes", "sure", is_flag=True, help="Do not ask.")
def sessions_delete(session_id: str, *, sure: bool) -> None:
    """Delete a session with its messages."""
    run(lambda services, _: listings.delete_session(services, session_id, sure=sure))


@main.group()
def turns() -> None:
    """Look at a turn, or end one, from any terminal."""


@turns.command("show")
@click.argument("turn_id")
def turns_show(turn_id: str) -> None:
    """Print a turn as JSON."""
    run(lambda services, _: listings.show_turn(services.turns.get(services.principal, turn_id)))


@turns.command("cancel")
@click.argument("turn_id")
def turns_cancel(turn_id: str) -> None:
    """End a running turn now; what it said so far is kept."""
    run(lambda services, _: listings.show_turn(services.turns.cancel(services.principal, turn_id)))


@main.group()
def organization() -> None:
    """See and set what holds for everybody in your organisation."""


@organization.command("create")
@click.argument("name")
def organization_create(name: str) -> None:
    """Make another organisation, which you own, and print its id."""
    run(lambda services, _: organizations.create_organization(services, name))


@organization.command("show")
@in_organization
@_JSON
def organization_show(*, as_json: bool, org_id: UUID | None) -> None:
    """Show its settings and its numbers."""
    run(lambda services, _: organizations.show_organization(services, as_json=as_json), org_id=org_id)


@organization.command("set")
@click.argument("name")
@click.argument("values", nargs=-1, required=True)
@in_organization
def organization_set(name: str, values: tuple[str, ...], org_id: UUID | None) -> None:
    """Set NAME; allowed_agents and allowed_models take several VALUES."""
    run(lambda services, _: organizations.set_organization(services, name, values), org_id=org_id)


@organization.command("unset")
@click.argument("names", nargs=-1, required=True)
@in_organization
def organization_unset(names: tuple[str, ...], org_id: UUID | None) -> None:
    """Take settings back."""
    run(lambda services, _: organizations.unset_organization(services, names), org_id=org_id)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option("--require-token", "needs_token", is_flag=True, help="Let nobody in without a token.")
@click.option("--insecure", is_flag=True, help="Let others in without a token.")
@click.option("--allowed-host", "hosts", multiple=True, help="A name that clients call this server by; repeatable.")
@click.option("--allowed-origin", "origins", multiple=True, help="A web origin that may call it; repeatable.")
@_TOOLSETS
@click.option("--tls-cert", type=_FILE, help="The server's certificate with its chain, a PEM file.")
@click.option("--tls-key", type=_FILE, help="The private key of that certificate, a PEM file.")
def serve(**given: object) -> None:
    """Be the MCP server over HTTP: Streamable HTTP at /mcp, SSE for old clients at /sse."""
    options = ServeOptions(**given)  # type: ignore[arg-type]  # click checked them
    guarded(partial(serve_http, options), loop_factory=fast_loops())


def _connecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what `connect` and `disconnect` have in common."""
    for option in (
        click.option("--force", is_flag=True, help="Whatever is there, and without a trial."),
        click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Another file, as a project's."),
        click.option("--name", default="agentapi", show_default=True, help="What the client calls this server."),
        click.argument("client", type=click.Choice(NAMES)),
    ):
        command = option(command)
    return command


@main.command("connect")
@click.option("--env", multiple=True, metavar="NAME", help="Hand this variable on, value and all; repeatable.")
@click.option("--print", "only_print", is_flag=True, help="Show what to paste where, and write nothing.")
@_connecting
def connect_command(**given: object) -> None:
    """Make an MCP client start this server: try that, then write its configuration."""
    guarded(partial(connect, ConnectOptions(**given)))  # type: ignore[arg-type]  # click checked them


@main.command("disconnect")
@_connecting
def disconnect_command(**given: object) -> None:
    """Undo `connect`."""
    guarded(partial(disconnect, ConnectOptions(**given)))  # type: ignore[arg-type]  # click checked them


@main.command()
@click.option("--ask", is_flag=True, help="Ask every agent one short question too; that costs what an answer costs.")
@_JSON
def doctor(*, ask: bool, as_json: bool) -> None:
    """Check every part, and print for each fault the line that mends it."""
    guarded(partial(examine, ask=ask, as_json=as_json))


main.add_command(keys)
main.add_command(members)
main.add_command(preferences)
main.add_command(secrets)
main.add_command(tokens)


@main.command()
@click.option("--status", "only_status", is_flag=True, help="Show what was applied and what is to come.")
@click.option("--dry-run", is_flag=True, help="List what it would do, and change nothing.")
@click.option("--grant-to", metavar="LOGIN", help="Let this login work for the program.")
def migrate(*, only_status: bool, dry_run: bool, grant_to: str | None) -> None:
    """Bring the database to this version."""
    guarded(partial(_migrate, only_status=only_status, dry_run=dry_run, grant_to=grant_to))


async def _migrate(*, only_status: bool, dry_run: bool, grant_to: str | None) -> None:
    settings = load_settings()
    configure_logs(settings.log_level)
    if only_status:
        states = await migration_states(settings, environment())
        table(("MIGRATION", "APPLIED", "NOTE"), [(s.id, s.applied_at or "not yet", s.note or "") for s in states])
        return
    if dry_run:
        _say_preview(await preview_migration(settings, environment(), grant_to=grant_to))
        return
    ran = await migrate_database(settings, environment(), grant_to=grant_to)
    say(f"Applied: {', '.join(ran)}" if ran else "The database is up to date.")
    if grant_to is not None:
        say(f"Granted: the login {grant_to} works for the program.")


def _say_preview(plan: Preview) -> None:
    say(f"Database {plan.database} on Postgres {plan.server}, as the login {plan.login}: it fits. Nothing was changed.")
    if plan.carries_over:
        say("It was made before the first release and equals this program's schema: it would be carried over.")
    if plan.migrations:
        say(f"It would apply: {', '.join(plan.migrations)}")
    elif not plan.carries_over:
        say("The database is up to date.")
    for change in plan.changes:
        say(f"  {change}")
