"""The commands for sessions."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.text import number_of
from agentapi_mcp.cli import completions
from agentapi_mcp.cli.consent import ask
from agentapi_mcp.cli.found_sessions import find_own_session, whole_transcript
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.options import FILE, json_option
from agentapi_mcp.cli.outputs import json_text, print_json, run, table
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.presentation.values import local_time

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    import asyncio

    from agentapi_mcp.core.conversations import session_facts
    from agentapi_mcp.core.conversations.models import Session
    from agentapi_mcp.core.conversations.sessions import Transcript
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import transcripts, usage_words
else:
    session_facts = LazyModule("agentapi_mcp.core.conversations.session_facts")
    usage_words = LazyModule("agentapi_mcp.presentation.usage_words")
    transcripts = LazyModule("agentapi_mcp.presentation.transcripts")
    asyncio = LazyModule("asyncio")


@click.group(cls=CommandGroup)
def sessions() -> None:
    """Find, read, export, rename and delete conversations."""


@sessions.command("list")
@click.option("--agent", shell_complete=completions.agent_names, help="Of this agent only.")
@click.option("--query", help="Search titles and the first 500 characters of first messages.")
@click.option("--tag", help="With this tag only.")
@click.option("--all", "archived", is_flag=True, help="Also archived ones.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--cursor", help="Go on after a page: its next_cursor, as --json has it.")
@json_option
def sessions_list(limit: int, cursor: str | None, *, as_json: bool, **wanted: Any) -> None:  # noqa: ANN401  # click's
    """List sessions, newest first; those that are archived are left out."""
    run(
        lambda services, _: _list_sessions(
            services, session_facts.SessionFilter(**wanted), (limit, cursor), as_json=as_json
        )
    )


@sessions.command("show")
@click.argument("session_id", shell_complete=completions.session_ids)
@json_option
def sessions_show(session_id: str, *, as_json: bool) -> None:
    """Print a session's transcript with the bill of each answer."""
    run(lambda services, _: _show_session(services, session_id, as_json=as_json))


@sessions.command("export")
@click.argument("session_id", shell_complete=completions.session_ids)
@click.option("--format", "form", type=click.Choice(["markdown", "json"]), default="markdown", show_default=True)
@click.option("-o", "--output", type=FILE, help="A file; stdout without it.")
@json_option
def sessions_export(session_id: str, form: str, output: Path | None, *, as_json: bool) -> None:
    """Write a session's transcript; with --json and a file, print what was written."""
    run(lambda services, _: _export_session(services, session_id, form, output, as_json=as_json))


@sessions.command("rename")
@click.argument("session_id", shell_complete=completions.session_ids)
@click.argument("title")
@json_option
def sessions_rename(session_id: str, title: str, *, as_json: bool) -> None:
    """Give a session another title."""

    async def rename(services: Services, _settings: object) -> None:
        found = await find_own_session(services, session_id)
        await services.sessions.rename(services.principal, found, title)
        if as_json:
            print_json(_fields(await services.sessions.get(services.principal, found)))
        else:
            print_err(f"Renamed {found}.")

    run(rename)


@sessions.command("delete")
@click.argument("session_id", shell_complete=completions.session_ids)
@click.option("--yes", "confirmed", is_flag=True, help="Do not ask.")
@json_option
def sessions_delete(session_id: str, *, confirmed: bool, as_json: bool) -> None:
    """Delete a session with its messages."""
    run(lambda services, _: _delete_session(services, session_id, confirmed=confirmed, as_json=as_json))


async def _list_sessions(
    services: Services, wanted: session_facts.SessionFilter, where: tuple[int, str | None], *, as_json: bool
) -> None:
    """Print a page of sessions: at most so many, after a cursor."""
    limit, cursor = where
    page = await services.sessions.list_(services.principal, wanted, limit=limit, cursor=cursor)
    if as_json:
        print_json({"sessions": [_fields(session) for session in page.items], "next_cursor": page.next_cursor})
        return
    rows = [
        (s.id, s.agent, s.message_count, *_totals(s), s.last_message_at and local_time(s.last_message_at), s.title)
        for s in page.items
    ]
    table(("SESSION", "AGENT", "MESSAGES", "TURNS", "TOKENS", "COST", "LAST MESSAGE", "TITLE"), rows)
    if not rows:
        print_err("No session fits.")
    if page.next_cursor is not None:
        print_err(f"There are more: say a higher --limit, --cursor, or a --query. Shown: {len(page.items)}.")


def _totals(session: Session) -> tuple[str, str, str]:
    """Return how many turns there were, their tokens, and their cost; of a conversation elsewhere as its user says."""
    sums, report = session.totals, session.facts.report
    if report is not None and not sums.turns:
        tokens = [count for count in (report.input_tokens, report.output_tokens) if count is not None]
        said = "unknown" if report.cost_usd is None else f"{usage_words.dollars(report.cost_usd)} reported"
        return "0", f"{sum(tokens):,}" if tokens else "unknown", said
    missing = f" + {sums.unpriced:,} unknown" if sums.unpriced and sums.cost_usd is not None else ""
    cost = "unknown" if sums.cost_usd is None else f"{usage_words.dollars(sums.cost_usd)}{missing}"
    return f"{sums.turns:,}", f"{sums.input_tokens + sums.output_tokens:,}", cost


async def _show_session(services: Services, session_id: str, *, as_json: bool) -> None:
    """Print a whole transcript, with times as the clock on the wall here shows them."""
    transcript = await whole_transcript(services, await find_own_session(services, session_id))
    if as_json:
        print_json(transcripts.render_json(transcript))
    else:
        time = partial(local_time, seconds=True)
        print_out(click.unstyle(transcripts.render_markdown(transcript, time=time)), end="")


async def _export_session(services: Services, session_id: str, form: str, out: Path | None, *, as_json: bool) -> None:
    """Write a whole transcript to a file, or to stdout."""
    transcript = await whole_transcript(services, await find_own_session(services, session_id))
    if out is None:
        if form == "json" or as_json:
            print_json(transcripts.render_json(transcript))
        else:
            print_out(click.unstyle(transcripts.render_markdown(transcript)), end="")
        return
    text = click.unstyle(transcripts.render_markdown(transcript)) if form == "markdown" else _json(transcript)
    try:
        await asyncio.to_thread(out.write_text, text, encoding="utf-8")
    except OSError as exc:
        raise InvalidRequestError(f"{out} cannot be written: {exc.strerror}.") from exc
    if as_json:
        print_json({"session_id": str(transcript.session.id), "file": str(out), "format": form})


async def _delete_session(services: Services, session_id: str, *, confirmed: bool, as_json: bool) -> None:
    """Delete a session, after confirmation."""
    found = await find_own_session(services, session_id)
    session = await services.sessions.get(services.principal, found)
    count = number_of(session.message_count or 0, "message")
    ask(f"Delete “{session.title}” with {count}?", yes=confirmed)
    await services.sessions.delete(services.principal, found)
    if as_json:
        print_json({"deleted": _fields(session)})
    else:
        print_err(f"Deleted {found}.")


def _json(transcript: Transcript) -> str:
    return json_text(transcripts.render_json(transcript)) + "\n"


def _fields(session: Session) -> dict[str, object]:
    """Serialize a session as the tool `list_sessions` does."""
    out = import_module("agentapi_mcp.presentation.sessions")  # slow to import, and a table needs none
    fields: dict[str, object] = out.session_out(session).model_dump(mode="json")
    return fields
