"""Agents and models as callers see them; nothing of an agent's options or of its row's configuration gets in here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.catalogue import CatalogueEntry
from agentapi_mcp.core.catalogue.models import AgentHealth, AgentTraffic, AgentView, ModelRow, ModelView


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of the agents now: health by row, traffic by name."""

    health: Mapping[AgentId, AgentHealth]
    traffic: Mapping[str, AgentTraffic]


def agent_view(entry: CatalogueEntry, measured: Measured) -> AgentView:
    """Show an agent; one that lacks something is never called healthy."""
    health = measured.health.get(entry.row.id, AgentHealth())
    default = entry.default_model()
    return AgentView(
        name=entry.name,
        backend=entry.backend_name,
        backend_reason=entry.backend_reason,
        description=entry.row.description,
        enabled=entry.row.enabled,
        default_model=default.name if default else None,
        models=model_views(entry),
        missing=entry.missing,
        health=replace(health, status=HealthStatus.NOT_CONFIGURED) if entry.missing else health,
        traffic=measured.traffic.get(entry.name, AgentTraffic()),
    )


def model_views(entry: CatalogueEntry) -> tuple[ModelView, ...]:
    """Show an agent's models, by name."""
    default = entry.default_model()
    return tuple(_model_view(entry, model, default) for model in sorted(entry.row.models, key=lambda one: one.name))


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
