"""The tools that read: agents, models, sessions, transcripts, health."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from mcp_types import CallToolResult, TextContent

from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.core.errors import ConfigurationError, StoreError
from agentapi_mcp.core.health import HealthReport
from agentapi_mcp.core.records.agents import AgentView, ModelView
from agentapi_mcp.core.records.health import HealthStatus
from agentapi_mcp.core.records.sessions import Session
from agentapi_mcp.core.transcripts import render_json, render_markdown, transcript_uri
from agentapi_mcp.mcp.arguments import Given
from agentapi_mcp.mcp.callers import Callers, Context, preferences_of
from agentapi_mcp.mcp.errors import explain
from agentapi_mcp.mcp.texts import clean
from agentapi_mcp.mcp.tool_models import (
    AgentHealthOut,
    AgentOut,
    AgentsOut,
    Answer,
    HealthOut,
    ModelOut,
    ModelsOut,
    PartOut,
    SessionOut,
    SessionsOut,
    TranscriptOut,
)

PAGE = 50
_TRANSCRIPT_BYTES = 60_000


@dataclass(frozen=True, slots=True)
class ListTools:
    """What the five tools need."""

    callers: Callers

    async def list_agents(self, context: Context, given: Given) -> CallToolResult:
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
        lines = [_agent_line(agent) for agent in agents]
        return answer(
            _lines(lines, "No agent fits.", page.next_cursor), AgentsOut(agents=agents, next_cursor=page.next_cursor)
        )

    async def list_models(self, context: Context, given: Given) -> CallToolResult:
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
        models = [_model_out(view) for view in page.items]
        lines = [_model_line(model) for model in models]
        return answer(
            _lines(lines, "No model fits.", page.next_cursor), ModelsOut(models=models, next_cursor=page.next_cursor)
        )

    async def list_sessions(self, context: Context, given: Given) -> CallToolResult:
        """Page through the caller's sessions."""
        caller = await self.callers.identify(context)
        page = await caller.services.sessions.list_(
            caller.principal,
            agent=given.find_text("agent"),
            query=given.find_text("query"),
            cursor=given.find_text("cursor"),
            limit=PAGE,
        )
        sessions = [_session_out(session) for session in page.items]
        lines = [
            f"- {one.title or 'Untitled'} ({one.agent}, {one.last_message_at}): {one.session_id}" for one in sessions
        ]
        text = _lines(lines, "No session fits.", page.next_cursor)
        return answer(text, SessionsOut(sessions=sessions, next_cursor=page.next_cursor))

    async def get_transcript(self, context: Context, given: Given) -> CallToolResult:
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

    async def get_health(self, context: Context, given: Given) -> CallToolResult:
        """Measure the server and its agents; that the stores are down is an answer, too."""
        try:
            caller = await self.callers.identify(context)
        except (StoreError, ConfigurationError) as exc:
            name = "configuration" if isinstance(exc, ConfigurationError) else "stores"
            part = PartOut(name=name, status=HealthStatus.UNHEALTHY, detail=explain(exc), latency_ms=None)
            out = HealthOut(status=HealthStatus.UNHEALTHY, parts=[part], agents=[])
        else:
            out = _health_out(await caller.services.health.report(caller.principal, given.find_text("agent")))
        lines = [f"The server is {out.status}."]
        lines += [f"- {part.name}: {part.status} ({part.detail})" for part in out.parts]
        lines += [_health_line(agent) for agent in out.agents]
        return answer("\n".join(lines), out)


def answer(text: str, out: Answer) -> CallToolResult:
    """Answer a tool call."""
    return CallToolResult(
        content=[TextContent(type="text", text=clean(text))], structured_content=out.model_dump(mode="json")
    )


def agent_out(view: AgentView) -> AgentOut:
    """Say all of an agent that callers may know."""
    return AgentOut(
        name=view.name,
        description=view.description,
        backend=view.backend,
        backend_reason=view.backend_reason,
        enabled=view.enabled,
        status=view.health.status,
        missing=list(view.missing),
        default_model=view.default_model,
        models=[model.name for model in view.models],
        typical_latency_ms=to_milliseconds(view.traffic.latency_p50),
        typical_cost_usd=_number(view.traffic.cost_p50_usd),
    )


def _agent_line(agent: AgentOut) -> str:
    state = agent.status.replace("_", " ") if agent.enabled else "disabled"
    missing = f" Missing: {'; '.join(agent.missing)}." if agent.missing else ""
    models = f" Models: {', '.join(agent.models)}." if agent.models else ""
    reason = f" ({agent.backend_reason})" if agent.backend_reason else ""
    return f"- {agent.name} ({state}; by {agent.backend}{reason}): {agent.description}{models}{missing}"


def _model_out(view: ModelView) -> ModelOut:
    prices = view.prices
    return ModelOut(
        agent=view.agent,
        name=view.name,
        model_id=view.model_id,
        provider=view.provider,
        description=view.description,
        enabled=view.enabled,
        is_default=view.is_default,
        context_window=view.context_window,
        max_output_tokens=view.max_output_tokens,
        input_price=_number(prices.input),
        output_price=_number(prices.output),
        cached_input_price=_number(prices.cached_input),
        price_source=prices.source,
        price_date=prices.on.isoformat() if prices.on else None,
    )


def _model_line(model: ModelOut) -> str:
    facts = [model.agent, model.provider]
    if model.is_default:
        facts.append("default")
    if not model.enabled:
        facts.append("disabled")
    if model.context_window is not None:
        facts.append(f"{model.context_window:,} tokens")
    if model.input_price is not None and model.output_price is not None:
        facts.append(f"${model.input_price:g} in, ${model.output_price:g} out per million")
    return f"- {model.name} ({', '.join(facts)})"


def _session_out(session: Session) -> SessionOut:
    return SessionOut(
        session_id=str(session.id),
        title=session.title,
        agent=session.agent,
        model=session.model,
        message_count=session.message_count,
        created_at=session.created_at.isoformat(),
        last_message_at=_moment(session.last_message_at),
        transcript_uri=transcript_uri(session.id),
    )


def _health_out(report: HealthReport) -> HealthOut:
    worst = all(part.status is HealthStatus.HEALTHY for part in report.parts)
    return HealthOut(
        status=HealthStatus.HEALTHY if worst else HealthStatus.UNHEALTHY,
        parts=[
            PartOut(name=part.name, status=part.status, detail=part.detail, latency_ms=to_milliseconds(part.latency))
            for part in report.parts
        ],
        agents=[_agent_health_out(view) for view in report.agents],
    )


def _agent_health_out(view: AgentView) -> AgentHealthOut:
    return AgentHealthOut(
        name=view.name,
        backend=view.backend,
        status=view.health.status,
        missing=list(view.missing),
        checked_at=_moment(view.health.checked_at),
        last_error=view.health.last_error,
        consecutive_failures=view.health.consecutive_failures,
        turns=view.traffic.turns,
        failures=view.traffic.failures,
        latency_p50_ms=to_milliseconds(view.traffic.latency_p50),
        latency_p95_ms=to_milliseconds(view.traffic.latency_p95),
    )


def _health_line(agent: AgentHealthOut) -> str:
    checked = f", checked {agent.checked_at}" if agent.checked_at else ", not checked yet"
    missing = f" Missing: {'; '.join(agent.missing)}." if agent.missing else ""
    error = f" Last error: {agent.last_error}" if agent.last_error else ""
    return f"- {agent.name}: {agent.status.replace('_', ' ')}{checked}.{missing}{error}"


def _lines(lines: Sequence[str], none: str, cursor: str | None) -> str:
    return _with_cursor("\n".join(lines) or none, cursor, "More")


def _with_cursor(text: str, cursor: str | None, what: str) -> str:
    return text if cursor is None else f"{text}\n\n[{what}: call again with cursor {cursor}]"


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _moment(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
