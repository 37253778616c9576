"""Providers and terms as JSON."""

from datetime import datetime

from agentapi_mcp.core.catalogue.term_models import Provider, Term
from agentapi_mcp.presentation.values import local_time, moment


def provider_json(provider: Provider) -> dict[str, object]:
    """Serialize a provider; `added_at` is null for one that came with the program."""
    return {
        "id": provider.id,
        "name": provider.name,
        "description": provider.description,
        "auth_type": str(provider.auth_type),
        "base_url": provider.base_url,
        "is_active": provider.is_active,
        "added_at": provider.added_at and moment(provider.added_at),
    }


def term_json(term: Term) -> dict[str, object]:
    """Serialize a term; `added_at` is as of a provider."""
    return {
        "kind": str(term.kind),
        "id": term.id,
        "name": term.name,
        "description": term.description,
        "category": term.category,
        "icon": term.icon,
        "color": term.color,
        "sort_order": term.sort_order,
        "is_active": term.is_active,
        "added_at": term.added_at and moment(term.added_at),
    }


def added(at: datetime | None) -> str:
    """Say when it was added."""
    return "with the program" if at is None else local_time(at)
