"""The health of the server and its agents as JSON and as lines."""

from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.health import HealthReport
from agentapi_mcp.core.catalogue.models import AgentView
from agentapi_mcp.presentation.models import AgentHealthOut, HealthOut, PartOut
from agentapi_mcp.presentation.values import moment

_WORST_FIRST = (HealthStatus.UNHEALTHY, HealthStatus.DEGRADED)


def health_out(report: HealthReport) -> HealthOut:
    """Serialize the health of the server and its agents."""
    statuses = {part.status for part in report.parts}
    return HealthOut(
        # The worst of its parts, of which none has another status.
        status=next((each for each in _WORST_FIRST if each in statuses), HealthStatus.HEALTHY),
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
        checked_at=view.health.checked_at and moment(view.health.checked_at),
        last_error=view.health.last_error,
        consecutive_failures=view.health.consecutive_failures,
        turns=view.usage.turns,
        failures=view.usage.errors,
        latency_p50_ms=to_milliseconds(view.usage.latency(0.5)),
        latency_p95_ms=to_milliseconds(view.usage.latency(0.95)),
    )


def agent_health_line(agent: AgentHealthOut) -> str:
    """Describe the health of an agent in one line."""
    checked = f", checked {agent.checked_at}" if agent.checked_at else ", not checked yet"
    missing = f" Missing: {'; '.join(agent.missing)}." if agent.missing else ""
    error = f" Last error: {agent.last_error}" if agent.last_error else ""
    return f"- {agent.name}: {agent.status.replace('_', ' ')}{checked}.{missing}{error}"
