"""What the listing commands print."""

import asyncio
import json
import sys
from collections.abc import Awaitable
from pathlib import Path

import click

from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError
from agentapi_mcp.base.paging import Page
from agentapi_mcp.cli.outputs import note, print_json, say, table
from agentapi_mcp.cli.replies import fields_of
from agentapi_mcp.core.catalogue.models import ModelView
from agentapi_mcp.core.conversations.models import Session, Turn
from agentapi_mcp.core.conversations.sessions import Transcript
from agentapi_mcp.core.services import Services
from agentapi_mcp.presentation.agents import agent_json, model_json
from agentapi_mcp.presentation.sessions import session_json
from agentapi_mcp.presentation.transcripts import render_json, render_markdown

_LEAST = 6

_ID = 36


async def list_agents(services: Services, *, as_json: bool) -> None:
    """Print every agent with its state and what it lacks."""
    agents = (await services.agents.list_(services.principal, limit=200)).items
    if as_json:
        print_json([agent_json(agent) for agent in agents])
        return
    rows = [(a.name, a.health.status, a.default_model, "; ".join(a.missing) or a.description) for a in agents]
    table(("AGENT", "STATUS", "MODEL", "MISSING OR ABOUT"), rows)


async def show_agent(services: Services, name: str, *, as_json: bool) -> None:
    """Print one agent with its models."""
    agent = await services.agents.get(services.principal, name)
    if as_json:
        print_json(agent_json(agent))
        return
    say(f"{agent.name} ({agent.backend}): {agent.description}")
    say(f"status: {agent.health.status}" + (f", {agent.health.last_error}" if agent.health.last_error else ""))
    if agent.backend_reason:
        say(f"by {agent.backend}, since {agent.backend_reason}")
    for lack in agent.missing:
        say(f"missing: {lack}")
    table(("MODEL", "CONTEXT", "IN $/M", "OUT $/M"), [_model_row(model) for model in agent.models])


async def list_models(services: Services, agent: str | None, *, as_json: bool) -> None:
    """Print the models of all agents, or of one."""
    models = (await services.agents.models(services.principal, agent=agent, limit=500)).items
    if as_json:
        print_json([model_json(model) for model in models])
        return
    rows = [(model.agent, *_model_row(model)) for model in models]
    table(("AGENT", "MODEL", "CONTEXT", "IN $/M", "OUT $/M"), rows)


async def list_sessions(services: Services, agent: str | None, query: str | None, limit: int, *, as_json: bool) -> None:
    """Print the newest sessions."""
    page = await services.sessions.list_(services.principal, agent=agent, query=query, limit=limit)
    if as_json:
        print_json([session_json(session) for session in page.items])
        return
    rows = [
        (s.id, s.agent, s.message_count, s.last_message_at and f"{s.last_message_at:%Y-%m-%d %H:%M}", s.title)
        for s in page.items
    ]
    table(("SESSION", "AGENT", "MESSAGES", "LAST", "TITLE"), rows)
    if not rows:
        note("No session fits.")
    if page.next_cursor is not None:
        note(f"There are more; ask for them with --limit, or narrow with --query. Shown: {len(page.items)}.")


async def find_session(services: Services, text: str) -> str:
    """Complete the beginning or, since ids begin with the time, the end of a session's id."""
    if len(text) >= _ID:
        return text
    if len(text) < _LEAST:
        raise InvalidRequestError(
            f"{text} is too short: give at least six characters of a session's id, best its last."
        )
    found: list[Session] = []
    cursor: str | None = None
    while True:
        page: Page[Session] = await services.sessions.list_(services.principal, cursor=cursor, limit=200)
        found += [session for session in page.items if _names(text, str(session.id))]
        cursor = page.next_cursor
        if cursor is None:
            break
    if len(found) != 1:
        raise NotFoundError(
            f"{len(found) or 'No'} sessions begin or end with {text}; `agentapi-mcp sessions list` shows them. "
            "Ids begin with the time: their ends differ most."
        )
    return str(found[0].id)


def _names(text: str, id_: str) -> bool:
    return id_.startswith(text.lower()) or id_.endswith(text.lower())


async def whole_transcript(services: Services, session_id: str) -> Transcript:
    """Read all of a session, part by part."""
    whole = await services.sessions.transcript(services.principal, session_id)
    while whole.older is not None:
        part = await services.sessions.transcript(services.principal, session_id, cursor=whole.older)
        whole = Transcript(whole.session, (*part.messages, *whole.messages), part.older)
    return whole


async def export_session(services: Services, session_id: str, form: str, out: Path | None) -> None:
    """Write a whole transcript to a file, or to stdout."""
    transcript = await whole_transcript(services, await find_session(services, session_id))
    if form == "json" and out is None:
        print_json(render_json(transcript))
        return
    text = click.unstyle(render_markdown(transcript)) if form == "markdown" else _json(transcript)
    if out is None:
        say(text, end="")
    else:
        try:
            await asyncio.to_thread(out.write_text, text, encoding="utf-8")
        except OSError as exc:
            raise InvalidRequestError(f"{out} cannot be written: {exc.strerror}.") from exc


async def delete_session(services: Services, session_id: str, *, sure: bool) -> None:
    """Delete a session, asking first in a terminal."""
    found = await find_session(services, session_id)
    session = await services.sessions.get(services.principal, found)
    if not sure and not sys.stdin.isatty():
        raise InvalidRequestError("Nobody can be asked whether you are sure: say --yes.")
    if not sure:
        click.confirm(f"Delete “{session.title}” with {session.message_count} messages?", abort=True, err=True)
    await services.sessions.delete(services.principal, found)
    note(f"Deleted {found}.")


def _model_row(model: ModelView) -> tuple[object, ...]:
    name = f"{model.name} (default)" if model.is_default else model.name
    prices = model.prices
    return (
        name,
        "unknown" if model.context_window is None else f"{model.context_window:,}",
        "unknown" if prices.input is None else f"{prices.input:f}",
        "unknown" if prices.output is None else f"{prices.output:f}",
    )


def _json(transcript: Transcript) -> str:
    return json.dumps(render_json(transcript), indent=2, ensure_ascii=False) + "\n"


async def show_turn(asked: Awaitable[Turn]) -> None:
    """Print a turn as JSON, its reply included."""
    print_json(fields_of(await asked))
