"""The commands for sessions."""

import asyncio
import sys
from functools import partial
from pathlib import Path

import click

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.text import number_of
from agentapi_mcp.cli.found_sessions import find_session, session_ids, whole_transcript
from agentapi_mcp.cli.options import FILE, json_option
from agentapi_mcp.cli.outputs import json_text, print_json, run, table
from agentapi_mcp.cli.questions import confirm
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.core.conversations.sessions import Transcript
from agentapi_mcp.core.services import Services
from agentapi_mcp.presentation.transcripts import render_json, render_markdown
from agentapi_mcp.presentation.values import moment
from agentapi_mcp.settings import Settings


@click.group()
def sessions() -> None:
    """Find, read, export, rename and delete conversations."""


@sessions.command("list")
@click.option("--agent", help="Of this agent only.")
@click.option("--query", help="Search titles and the first 500 characters of first messages.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@json_option
def sessions_list(agent: str | None, query: str | None, limit: int, *, as_json: bool) -> None:
    """List sessions, newest first."""
    run(lambda services, _: _list_sessions(services, agent, query, limit, as_json=as_json))


@sessions.command("show")
@click.argument("session_id")
def sessions_show(session_id: str) -> None:
    """Print a session's transcript with the bill of each answer."""
    run(lambda services, _: _export_session(services, session_id, "markdown", None))


@sessions.command("export")
@click.argument("session_id")
@click.option("--format", "form", type=click.Choice(["markdown", "json"]), default="markdown", show_default=True)
@click.option("-o", "--output", type=FILE, help="A file; stdout without it.")
def sessions_export(session_id: str, form: str, output: Path | None) -> None:
    """Write a session's transcript."""
    run(lambda services, _: _export_session(services, session_id, form, output))


@sessions.command("rename")
@click.argument("session_id")
@click.argument("title")
def sessions_rename(session_id: str, title: str) -> None:
    """Give a session another title."""

    async def rename(services: Services, _settings: Settings) -> None:
        found = await _find_session(services, session_id)
        await services.sessions.rename(services.principal, found, title)
        print_err(f"Renamed {found}.")

    run(rename)


@sessions.command("delete")
@click.argument("session_id")
@click.option("--yes", "confirmed", is_flag=True, help="Do not ask.")
def sessions_delete(session_id: str, *, confirmed: bool) -> None:
    """Delete a session with its messages."""
    run(lambda services, _: _delete_session(services, session_id, confirmed=confirmed))


async def _list_sessions(
    services: Services, agent: str | None, query: str | None, limit: int, *, as_json: bool
) -> None:
    """Print the newest sessions."""
    page = await services.sessions.list_(services.principal, agent=agent, query=query, limit=limit)
    if as_json:
        print_json([_fields(session) for session in page.items])
        return
    rows = [
        (s.id, s.agent, s.message_count, s.last_message_at and f"{s.last_message_at:%Y-%m-%d %H:%M}", s.title)
        for s in page.items
    ]
    table(("SESSION", "AGENT", "MESSAGES", "LAST", "TITLE"), rows)
    if not rows:
        print_err("No session fits.")
    if page.next_cursor is not None:
        print_err(f"There are more; ask for them with --limit, or narrow with --query. Shown: {len(page.items)}.")


async def _find_session(services: Services, text: str) -> str:
    """Return the full id of the session whose id begins or ends with a text."""
    return await find_session(partial(session_ids, services), text)


async def _export_session(services: Services, session_id: str, form: str, out: Path | None) -> None:
    """Write a whole transcript to a file, or to stdout."""
    transcript = await whole_transcript(services, await _find_session(services, session_id))
    if form == "json" and out is None:
        print_json(render_json(transcript))
        return
    text = click.unstyle(render_markdown(transcript)) if form == "markdown" else _json(transcript)
    if out is None:
        print_out(text, end="")
    else:
        try:
            await asyncio.to_thread(out.write_text, text, encoding="utf-8")
        except OSError as exc:
            raise InvalidRequestError(f"{out} cannot be written: {exc.strerror}.") from exc


async def _delete_session(services: Services, session_id: str, *, confirmed: bool) -> None:
    """Delete a session, after confirmation."""
    found = await _find_session(services, session_id)
    session = await services.sessions.get(services.principal, found)
    if not confirmed and not sys.stdin.isatty():
        raise InvalidRequestError("Nobody can be asked whether you are sure: say --yes.")
    if not confirmed and not confirm(
        f"Delete “{session.title}” with {number_of(session.message_count or 0, 'message')}?", default=False
    ):
        raise click.Abort
    await services.sessions.delete(services.principal, found)
    print_err(f"Deleted {found}.")


def _json(transcript: Transcript) -> str:
    return json_text(render_json(transcript)) + "\n"


def _fields(session: Session) -> dict[str, object]:
    return {
        "session_id": str(session.id),
        "title": session.title,
        "agent": session.agent,
        "model": session.model,
        "messages": session.message_count,
        "created_at": moment(session.created_at),
        "last_message_at": session.last_message_at and moment(session.last_message_at),
    }
