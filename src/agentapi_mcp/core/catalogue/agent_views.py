"""Build the views of agents and models for callers; options and row configuration are never included."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.catalogue import CatalogueEntry
from agentapi_mcp.core.catalogue.models import AgentHealth, AgentView, ModelRow, ModelView
from agentapi_mcp.core.catalogue.price_list import context_window_of, prices_of
from agentapi_mcp.core.usage.models import UsageSums


@dataclass(frozen=True, slots=True)
class Measurements:
    """Measurements of agents at a moment: health by row id, usage by name."""

    health: Mapping[AgentId, AgentHealth]
    usage: Mapping[str, UsageSums]
    at: datetime


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
        models=model_views(entry, measured.at),
        missing=entry.missing,
        health=health,
        usage=measured.usage.get(entry.name, UsageSums()),
    )


def model_views(entry: CatalogueEntry, at: datetime) -> tuple[ModelView, ...]:
    """Build the views of an agent's models, by name, with what they cost at a moment."""
    default = entry.default_model()
    models = sorted(entry.row.models, key=lambda model: model.name)
    return tuple(_model_view(entry, model, default, at) for model in models)


def _model_view(entry: CatalogueEntry, model: ModelRow, default: ModelRow | None, at: datetime) -> ModelView:
    return ModelView(
        agent=entry.name,
        name=model.name,
        model_id=model.model_id,
        provider=model.provider,
        description=model.description or model.display_name,
        enabled=model.enabled,
        is_default=default is not None and model.id == default.id,
        context_window=context_window_of(model),
        max_output_tokens=model.max_output_tokens,
        prices=prices_of(model, at),
    )
