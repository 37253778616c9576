"""The tools that read: agents, models, sessions, transcripts, health."""

import json

from mcp_types import CallToolResult

from agentapi_mcp.base.errors import ConfigurationError, StoreError
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.conversations.session_facts import SessionFilter
from agentapi_mcp.core.conversations.sessions import Transcript
from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.edges.mcp.callers import Caller, preferences_of
from agentapi_mcp.edges.mcp.errors import explain
from agentapi_mcp.edges.mcp.options import PAGE
from agentapi_mcp.edges.mcp.tools.answers import answer
from agentapi_mcp.edges.mcp.tools.arguments import Argument
from agentapi_mcp.edges.mcp.tools.declarations import ToolCall, Toolset, ToolSpec
from agentapi_mcp.presentation.agents import agent_line, agent_out, model_line, model_out
from agentapi_mcp.presentation.health import agent_health_line, health_out
from agentapi_mcp.presentation.models import (
    AgentsOut,
    HealthOut,
    ModelsOut,
    PartOut,
    SessionsOut,
    TranscriptOut,
)
from agentapi_mcp.presentation.sessions import session_line, session_out
from agentapi_mcp.presentation.text import MAX_REPLY_TOKENS, clean
from agentapi_mcp.presentation.tokens import estimate_tokens
from agentapi_mcp.presentation.transcripts import render_json, render_markdown
from agentapi_mcp.presentation.uris import transcript_uri

TOOLSET = Toolset()

_TRANSCRIPT_BYTES = 60_000
_QUERY = Argument(name="query", about="Text to find", verbatim=True)
_CURSOR = Argument(name="cursor", about="A next_cursor")


@TOOLSET.tool(
    ToolSpec(
        name="list_agents",
        title="List agents",
        about="List agents: what each is for, its state, models, what it lacks.",
        arguments=(_QUERY, _CURSOR),
        answers=AgentsOut,
        action=Action.READ_CATALOGUE,
    )
)
async def list_agents(call: ToolCall) -> CallToolResult:
    """Page through the agents."""
    caller = await call.identify()
    preferences = await preferences_of(caller, call.context)
    page = await caller.services.agents.list_(
        caller.principal,
        query=call.given.find_text("query"),
        cursor=call.given.find_text("cursor"),
        limit=PAGE,
        preferences=preferences,
    )
    default = await caller.services.agents.default(caller.principal, preferences)
    agents = [agent_out(view) for view in page.items]
    lines = [agent_line(agent, view.usage) for agent, view in zip(agents, page.items, strict=True)]
    out = AgentsOut(agents=agents, default=default, next_cursor=page.next_cursor)
    return answer("\n".join(lines) or "No agent fits.", out, remark=_more(page.next_cursor))


@TOOLSET.tool(
    ToolSpec(
        name="list_models",
        title="List models",
        about="List agents' models: context window, prices in USD per million tokens.",
        arguments=(Argument(name="agent", about="Only this agent's"), _QUERY, _CURSOR),
        answers=ModelsOut,
        action=Action.READ_CATALOGUE,
    )
)
async def list_models(call: ToolCall) -> CallToolResult:
    """Page through the models."""
    caller = await call.identify()
    page = await caller.services.agents.models(
        caller.principal,
        agent=call.given.find_text("agent"),
        query=call.given.find_text("query"),
        cursor=call.given.find_text("cursor"),
        limit=PAGE,
        preferences=await preferences_of(caller, call.context),
    )
    models = [model_out(view) for view in page.items]
    lines = [model_line(model) for model in models]
    out = ModelsOut(models=models, next_cursor=page.next_cursor)
    return answer("\n".join(lines) or "No model fits.", out, remark=_more(page.next_cursor))


@TOOLSET.tool(
    ToolSpec(
        name="list_sessions",
        title="List chat sessions",
        about="List your sessions, newest first; query looks at titles and beginnings.",
        arguments=(
            Argument(name="agent", about="Only with this agent"),
            _QUERY,
            Argument(name="tag", about="With this tag", verbatim=True),
            Argument(name="archived", kind="boolean", about="Also those"),
            _CURSOR,
        ),
        answers=SessionsOut,
        action=Action.READ_SESSIONS,
    )
)
async def list_sessions(call: ToolCall) -> CallToolResult:
    """Page through the caller's sessions."""
    caller = await call.identify()
    agent = call.given.find_text("agent")
    page = await caller.services.sessions.list_(
        caller.principal,
        SessionFilter(
            agent=None if agent is None else await caller.services.agents.meant(caller.principal, agent),
            query=call.given.find_text("query"),
            tag=call.given.find_text("tag"),
            archived=call.given.flag("archived"),
        ),
        cursor=call.given.find_text("cursor"),
        limit=PAGE,
    )
    sessions = [session_out(session) for session in page.items]
    out = SessionsOut(sessions=sessions, next_cursor=page.next_cursor)
    return answer("\n".join(map(session_line, sessions)) or "No session fits.", out, remark=_more(page.next_cursor))


@TOOLSET.tool(
    ToolSpec(
        name="get_transcript",
        title="Get a transcript",
        about="Read a session's messages, newest part first.",
        arguments=(
            Argument(name="session_id", about="From chat or list_sessions", required=True),
            Argument(name="cursor", about="A next_cursor: earlier ones"),
            Argument(name="format", about="Default: markdown", one_of=("markdown", "json")),
        ),
        answers=TranscriptOut,
        action=Action.READ_SESSIONS,
        long_results=True,
    )
)
async def get_transcript(call: ToolCall) -> CallToolResult:
    """Read the newest part of a session, or the part before a cursor."""
    caller = await call.identify()
    transcript = await _part(call, caller)
    as_json = call.given.find_text("format") == "json"
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
    return answer(text, out, remark=_more(transcript.older, "Earlier messages"))


async def _part(call: ToolCall, caller: Caller) -> Transcript:
    """Read as many messages as clients give to a model at once, but one at least."""
    size = _TRANSCRIPT_BYTES
    while True:
        transcript = await caller.services.sessions.transcript(
            caller.principal, call.given.text("session_id"), cursor=call.given.find_text("cursor"), max_bytes=size
        )
        if len(transcript.messages) == 1:  # it is shown whole, however long it is
            return transcript
        tokens = sum(estimate_tokens(message.content) for message in transcript.messages)
        if tokens <= MAX_REPLY_TOKENS:
            return transcript
        # Those that are left may have more of them a byte than all had.
        size = size * MAX_REPLY_TOKENS * 9 // (tokens * 10)


@TOOLSET.tool(
    ToolSpec(
        name="get_health",
        title="Get health",
        about="Check the server and its agents: status, last check, failures, latency.",
        arguments=(Argument(name="agent", about="Only this agent"),),
        answers=HealthOut,
        action=Action.READ_CATALOGUE,
    )
)
async def get_health(call: ToolCall) -> CallToolResult:
    """Measure the server and its agents; that the stores are down is an answer, too."""
    try:
        caller = await call.identify()
    except (StoreError, ConfigurationError) as exc:
        name = "configuration" if isinstance(exc, ConfigurationError) else "stores"
        part = PartOut(name=name, status=HealthStatus.UNHEALTHY, detail=explain(exc), latency_ms=None)
        out = HealthOut(status=HealthStatus.UNHEALTHY, parts=[part], agents=[])
    else:
        out = health_out(await caller.services.health.report(caller.principal, call.given.find_text("agent")))
    lines = [f"The server is {out.status}."]
    lines += [f"- {part.name}: {part.status} ({part.detail})" for part in out.parts]
    lines += [agent_health_line(agent) for agent in out.agents]
    return answer("\n".join(lines), out)


def _more(cursor: str | None, what: str = "More") -> str | None:
    return None if cursor is None else f"[{what}: call again with cursor {cursor}]"
