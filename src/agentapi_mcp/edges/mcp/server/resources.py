"""Transcripts and the catalogue as resources."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import parse_qsl, unquote

from mcp_types import (
    Annotations,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError
from agentapi_mcp.base.ids import SessionId, parse_id
from agentapi_mcp.core.catalogue.models import Preferences
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.core.conversations.session_facts import SessionFilter
from agentapi_mcp.core.usage.models import UsageGroup
from agentapi_mcp.edges.mcp.callers import Caller, Callers, Context, preferences_of
from agentapi_mcp.edges.mcp.errors import resource_not_found
from agentapi_mcp.edges.mcp.options import PAGE
from agentapi_mcp.edges.mcp.tools.registry import refuse_cursor
from agentapi_mcp.presentation.agents import agent_out
from agentapi_mcp.presentation.models import AgentsOut, SessionsOut
from agentapi_mcp.presentation.sessions import session_out
from agentapi_mcp.presentation.transcripts import render_json, render_markdown
from agentapi_mcp.presentation.uris import sessions_uri, transcript_uri
from agentapi_mcp.presentation.usage import usage_out
from agentapi_mcp.presentation.values import moment

CATALOGUE_URI = "agentapi://catalog/agents"
JSON = "application/json"
MARKDOWN = "text/markdown"

_LONGEST_URI = 16_000  # characters, of which up to twelve stand for one of a query; to decode megabytes takes seconds
_PART_BYTES = 1_000_000
_PART_MESSAGES = 500
_TRANSCRIPT = re.compile(r"agentapi://chat/sessions/([0-9A-Za-z-]{1,36})/transcript(\.json)?(?:\?cursor=([^&#]+))?")
_SESSIONS = re.compile(r"agentapi://chat/sessions(?:\?([^#]*))?")
_USAGE = re.compile(r"agentapi://usage/([0-9A-Za-z-]{1,40})")
_USAGE_TEMPLATE = "agentapi://usage/{period}"
_SESSIONS_TEMPLATE = "agentapi://chat/sessions{?query,cursor}"
_MARKDOWN_TEMPLATE = "agentapi://chat/sessions/{session_id}/transcript"
_JSON_TEMPLATE = "agentapi://chat/sessions/{session_id}/transcript.json"


@dataclass(frozen=True, slots=True)
class TranscriptReference:
    """A parsed transcript URI; `cursor` refers to an earlier part."""

    session_id: SessionId
    as_json: bool
    cursor: str | None


def parse_transcript_uri(uri: str) -> TranscriptReference | None:
    """Parse a transcript URI; None if it is not one."""
    match = None if len(uri) > _LONGEST_URI else _TRANSCRIPT.fullmatch(uri)
    if match is None:
        return None
    with suppress(InvalidRequestError):
        session_id = SessionId(parse_id(match[1], "session_id"))
        return TranscriptReference(session_id, match[2] is not None, unquote(match[3]) if match[3] else None)
    return None


def parse_sessions_uri(uri: str) -> dict[str, str] | None:
    """Parse the URI of a page of sessions into `query` and `cursor`; None if it is not one."""
    match = None if len(uri) > _LONGEST_URI else _SESSIONS.fullmatch(uri)
    if match is None:
        return None
    pairs = parse_qsl(match[1] or "", keep_blank_values=True)
    found = dict(pairs)
    return found if len(found) == len(pairs) and found.keys() <= {"query", "cursor"} else None


_TEMPLATES = [
    ResourceTemplate(
        uri_template=_MARKDOWN_TEMPLATE,
        name="transcript",
        title="Transcript",
        description="The newest messages of a chat session, up to 1 MB, with a link to the earlier ones.",
        mime_type=MARKDOWN,
    ),
    ResourceTemplate(
        uri_template=_JSON_TEMPLATE,
        name="transcript-json",
        title="Transcript as JSON",
        description="The same for programs, with the bill of every turn.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        uri_template=_MARKDOWN_TEMPLATE + "{?cursor}",
        name="transcript-part",
        title="Earlier part of a transcript",
        description="The messages before those of a newer part, which links here.",
        mime_type=MARKDOWN,
    ),
    ResourceTemplate(
        uri_template=_JSON_TEMPLATE + "{?cursor}",
        name="transcript-json-part",
        title="Earlier part of a transcript as JSON",
        description="The same for programs.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        uri_template=_SESSIONS_TEMPLATE,
        name="sessions",
        title="Chat sessions",
        description="Chat sessions, newest first, 50 at a time; query searches titles and how first messages begin.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        uri_template=_USAGE_TEMPLATE,
        name="usage",
        title="Usage",
        description="Your usage and its cost by agent in a period: today, 7d, month, 2026-11; days are those of UTC.",
        mime_type=JSON,
    ),
]
TEMPLATE_URIS = frozenset(template.uri_template for template in _TEMPLATES)

_CATALOGUE = Resource(
    uri=CATALOGUE_URI,
    name="agents",
    title="Agents",
    description="The agents of this server, as list_agents tells them.",
    mime_type=JSON,
)


class Resources:
    """Lists and reads resources; those of other users are reported as not found."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def templates(self, _context: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        """List the resource templates, in one page."""
        refuse_cursor(params)
        return ListResourceTemplatesResult(resource_templates=_TEMPLATES)

    async def list_(self, context: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        """List the catalogue, then the caller's newest transcripts, and the way to the others."""
        # No further page: clients read all there are before they show one, and give a model hundreds of transcripts.
        refuse_cursor(params)
        caller = await self._callers.identify(context)
        sessions = caller.services.sessions
        page = await sessions.list_(caller.principal, limit=PAGE)
        sizes = await sessions.sizes(caller.principal, page.items)
        transcripts = [_transcript_resource(session, sizes.get(session.id)) for session in page.items]
        older = [] if page.next_cursor is None else [_older_resource(page.next_cursor)]
        return ListResourcesResult(resources=[_CATALOGUE, *transcripts, *older])

    async def read(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        """Read a resource."""
        caller = await self._callers.identify(context)
        if params.uri == CATALOGUE_URI:
            return _contents(params.uri, JSON, await _read_catalogue(caller, await preferences_of(caller, context)))
        usage = _USAGE.fullmatch(params.uri)
        if usage is not None:
            return _contents(params.uri, JSON, await _read_usage(caller, usage[1]))
        asked = parse_sessions_uri(params.uri)
        if asked is not None:
            return _contents(params.uri, JSON, await _read_sessions(caller, asked))
        reference = parse_transcript_uri(params.uri)
        if reference is None:
            _refuse(params.uri)
        try:
            text = await _read_transcript(caller, reference)
        except NotFoundError:
            _refuse(params.uri)
        return _contents(params.uri, JSON if reference.as_json else MARKDOWN, text)

    async def exists(self, caller: Caller, uri: str) -> bool:
        """Return whether this is the canonical URI of a resource that the caller may subscribe to."""
        if uri == CATALOGUE_URI:
            return True
        reference = parse_transcript_uri(uri)
        if reference is None or uri != transcript_uri(reference.session_id, json=reference.as_json):
            return False
        try:
            await caller.services.sessions.get(caller.principal, str(reference.session_id))
        except NotFoundError:
            return False
        return True


def _refuse(uri: str) -> NoReturn:
    raise resource_not_found(uri)


def _contents(uri: str, mime_type: str, text: str) -> ReadResourceResult:
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=mime_type, text=text)])


async def _read_catalogue(caller: Caller, preferences: Preferences) -> str:
    agents = caller.services.agents
    page = await agents.list_(caller.principal, limit=PAGE, preferences=preferences)
    views = list(page.items)
    while page.next_cursor is not None:
        page = await agents.list_(caller.principal, limit=PAGE, cursor=page.next_cursor, preferences=preferences)
        views += page.items
    default = await agents.default(caller.principal, preferences)
    out = AgentsOut(agents=[agent_out(view) for view in views], default=default, next_cursor=None)
    return out.model_dump_json(indent=1)


async def _read_usage(caller: Caller, period: str) -> str:
    usage = caller.services.usage
    report = await usage.report(caller.principal, usage.query_of(period, UsageGroup.AGENT))
    return usage_out(report).model_dump_json(indent=1)


async def _read_sessions(caller: Caller, asked: Mapping[str, str]) -> str:
    # Clients that expand a template by themselves leave a variable without a value blank.
    page = await caller.services.sessions.list_(
        caller.principal,
        SessionFilter(query=asked.get("query") or None),
        cursor=asked.get("cursor") or None,
        limit=PAGE,
    )
    out = SessionsOut(sessions=[session_out(session) for session in page.items], next_cursor=page.next_cursor)
    return out.model_dump_json(indent=1)


async def _read_transcript(caller: Caller, reference: TranscriptReference) -> str:
    transcript = await caller.services.sessions.transcript(
        caller.principal,
        str(reference.session_id),
        cursor=reference.cursor,
        max_bytes=_PART_BYTES,
        limit=_PART_MESSAGES,
    )
    older = transcript.older
    older_uri = (
        transcript_uri(reference.session_id, json=reference.as_json, cursor=older) if older is not None else None
    )
    if reference.as_json:
        return json.dumps(render_json(transcript, older_uri=older_uri), ensure_ascii=False)
    return render_markdown(transcript, older_uri=older_uri)


def _transcript_resource(session: Session, messages_bytes: int | None) -> Resource:
    changed = session.last_message_at or session.created_at
    return Resource(
        uri=transcript_uri(session.id),
        name=f"transcript-{session.id}",
        title=session.title or "Untitled session",
        description=f"Conversation with {session.agent}." if session.agent else "A conversation.",
        mime_type=MARKDOWN,
        # Of the messages alone, as the headings and bills between them are not known before they are written.
        size=None if messages_bytes is None else min(messages_bytes, _PART_BYTES),
        annotations=Annotations(audience=["user"], last_modified=moment(changed)),
    )


def _older_resource(cursor: str) -> Resource:
    return Resource(
        uri=sessions_uri(cursor),
        name="older-sessions",
        title="Older chat sessions",
        description=f"The sessions after these {PAGE}, as list_sessions tells them; {_SESSIONS_TEMPLATE} searches all.",
        mime_type=JSON,
    )
