"""The tools that read: agents, models, sessions, transcripts, health."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mcp_types import CallToolResult, TextContent

from agentapi_mcp.base.errors import ConfigurationError, StoreError
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.edges.mcp.callers import Callers, Context, preferences_of
from agentapi_mcp.edges.mcp.tools.arguments import ToolArguments
from agentapi_mcp.presentation.agents import agent_line, agent_out, model_line, model_out
from agentapi_mcp.presentation.errors import explain
from agentapi_mcp.presentation.health import agent_health_line, health_out
from agentapi_mcp.presentation.models import (
    AgentsOut,
    HealthOut,
    ModelsOut,
    OutputModel,
    PartOut,
    SessionsOut,
    TranscriptOut,
)
from agentapi_mcp.presentation.sessions import session_out
from agentapi_mcp.presentation.text import clean
from agentapi_mcp.presentation.transcripts import render_json, render_markdown
from agentapi_mcp.presentation.uris import transcript_uri

PAGE = 50

_TRANSCRIPT_BYTES = 60_000


@dataclass(frozen=True, slots=True)
class ListTools:
    """What the five tools need."""

    callers: Callers

    async def list_agents(self, context: Context, given: ToolArguments) -> CallToolResult:
        """Page through the agents."""
        caller = await self.callers.identify(context)
        page = await caller.services.agents.list_(
            caller.principal,
            query=given.find_text("query"),
            cursor=given.find_text("cursor"),
            limit=PAGE,
            preferences=await preferences_of(caller, context),
        )
        agents = [agent_out(view) for view in page.items]
        lines = [agent_line(agent) for agent in agents]
        return answer(
            _lines(lines, "No agent fits.", page.next_cursor), AgentsOut(agents=agents, next_cursor=page.next_cursor)
        )

    async def list_models(self, context: Context, given: ToolArguments) -> CallToolResult:
        """Page through the models."""
        caller = await self.callers.identify(context)
        page = await caller.services.agents.models(
            caller.principal,
            agent=given.find_text("agent"),
            query=given.find_text("query"),
            cursor=given.find_text("cursor"),
            limit=PAGE,
            preferences=await preferences_of(caller, context),
        )
        models = [model_out(view) for view in page.items]
        lines = [model_line(model) for model in models]
        return answer(
            _lines(lines, "No model fits.", page.next_cursor), ModelsOut(models=models, next_cursor=page.next_cursor)
        )

    async def list_sessions(self, context: Context, given: ToolArguments) -> CallToolResult:
        """Page through the caller's sessions."""
        caller = await self.callers.identify(context)
        page = await caller.services.sessions.list_(
            caller.principal,
            agent=given.find_text("agent"),
            query=given.find_text("query"),
            cursor=given.find_text("cursor"),
            limit=PAGE,
        )
        sessions = [session_out(session) for session in page.items]
        lines = [
            f"- {one.title or 'Untitled'} ({one.agent}, {one.last_message_at}): {one.session_id}" for one in sessions
        ]
        text = _lines(lines, "No session fits.", page.next_cursor)
        return answer(text, SessionsOut(sessions=sessions, next_cursor=page.next_cursor))

    async def get_transcript(self, context: Context, given: ToolArguments) -> CallToolResult:
        """Read the newest part of a session, or the part before a cursor."""
        caller = await self.callers.identify(context)
        transcript = await caller.services.sessions.transcript(
            caller.principal,
            given.text("session_id"),
            cursor=given.find_text("cursor"),
            max_bytes=_TRANSCRIPT_BYTES,
        )
        as_json = given.find_text("format") == "json"
        document = render_json(transcript) if as_json else None
        text = render_markdown(transcript) if document is None else json.dumps(document, ensure_ascii=False)
        out = TranscriptOut(
            session_id=str(transcript.session.id),
            title=transcript.session.title,
            format="json" if as_json else "markdown",
            markdown=None if as_json else clean(text),
            document=document,
            next_cursor=transcript.older,
            transcript_uri=transcript_uri(transcript.session.id, json=as_json),
        )
        return answer(_with_cursor(text, transcript.older, "Earlier messages"), out)

    async def get_health(self, context: Context, given: ToolArguments) -> CallToolResult:
        """Measure the server and its agents; that the stores are down is an answer, too."""
        try:
            caller = await self.callers.identify(context)
        except (StoreError, ConfigurationError) as exc:
            name = "configuration" if isinstance(exc, ConfigurationError) else "stores"
            part = PartOut(name=name, status=HealthStatus.UNHEALTHY, detail=explain(exc), latency_ms=None)
            out = HealthOut(status=HealthStatus.UNHEALTHY, parts=[part], agents=[])
        else:
            out = health_out(await caller.services.health.report(caller.principal, given.find_text("agent")))
        lines = [f"The server is {out.status}."]
        lines += [f"- {part.name}: {part.status} ({part.detail})" for part in out.parts]
        lines += [agent_health_line(agent) for agent in out.agents]
        return answer("\n".join(lines), out)


def answer(text: str, out: OutputModel) -> CallToolResult:
    """Answer a tool call."""
    return CallToolResult(
        content=[TextContent(type="text", text=clean(text))], structured_content=out.model_dump(mode="json")
    )


def _lines(lines: Sequence[str], none: str, cursor: str | None) -> str:
    return _with_cursor("\n".join(lines) or none, cursor, "More")


def _with_cursor(text: str, cursor: str | None, what: str) -> str:
    return text if cursor is None else f"{text}\n\n[{what}: call again with cursor {cursor}]"
