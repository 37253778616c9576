"""Build the views of agents and models for callers; options and row configuration are never included."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.catalogue import CatalogueEntry
from agentapi_mcp.core.catalogue.models import AgentHealth, AgentView, ModelRow, ModelView
from agentapi_mcp.core.usage.models import UsageSums


@dataclass(frozen=True, slots=True)
class Measurements:
    """Current measurements of agents: health by row id, usage by name."""

    health: Mapping[AgentId, AgentHealth]
    usage: Mapping[str, UsageSums]


def agent_view(entry: CatalogueEntry, measured: Measurements) -> AgentView:
    """Build the view of an agent; one with missing configuration is never reported as healthy."""
    health = measured.health.get(entry.row.id, AgentHealth())
    if entry.missing:  # why it failed while it was set up is not why it does not work now
        health = replace(health, status=HealthStatus.NOT_CONFIGURED, last_error=None)
    default = entry.default_model()
    return AgentView(
        name=entry.name,
        backend=entry.backend_name,
        backend_reason=entry.backend_reason,
        description=entry.row.description,
        enabled=entry.row.enabled,
        default_model=default.name if default else entry.default_model_name if entry.borrows_models else None,
        models=model_views(entry),
        missing=entry.missing,
        health=health,
        usage=measured.usage.get(entry.name, UsageSums()),
    )


def model_views(entry: CatalogueEntry) -> tuple[ModelView, ...]:
    """Build the views of an agent's models, by name."""
    default = entry.default_model()
    return tuple(_model_view(entry, model, default) for model in sorted(entry.row.models, key=lambda model: model.name))


def _model_view(entry: CatalogueEntry, model: ModelRow, default: ModelRow | None) -> ModelView:
    return ModelView(
        agent=entry.name,
        name=model.name,
        model_id=model.model_id,
        provider=model.provider,
        description=model.description or model.display_name,
        enabled=model.enabled,
        is_default=default is not None and model.id == default.id,
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
        prices=model.prices,
    )
