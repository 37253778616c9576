"""Read organisation settings, and filter the catalogue by them."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import cast

from agentapi_mcp.base.json_values import is_object
from agentapi_mcp.core.catalogue.catalogue import Catalogue, CatalogueEntry
from agentapi_mcp.core.catalogue.models import AgentRow, ModelRow, OrganizationSettings
from agentapi_mcp.core.catalogue.ports import OrganizationStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource

NAMES = tuple(field.name for field in fields(OrganizationSettings))
LISTS = frozenset({"allowed_agents", "allowed_models"})
# Of `limits`, which the database counts (0009_shares.sql, 0013_limits.sql) and the operator sets.
_LIMITED = (Resource.CONVERSATIONS, Resource.RUNNING_TURNS, Resource.RUNNING_BYTES)
LIMITS: Mapping[str, Resource] = {f"max_{resource}": resource for resource in _LIMITED}
_log = logging.getLogger(__name__)


class CataloguePolicy:
    """The catalogue filtered for the members of an organisation; without a store everything is allowed."""

    def __init__(self, catalogue: Catalogue, store: OrganizationStore | None = None) -> None:
        self._store = store
        self._catalogue = catalogue

    async def entries(self, principal: Principal) -> list[CatalogueEntry]:
        """List the agents that the principal's organisation allows."""
        return allowed(await self._catalogue.entries(), await self.settings(principal))

    async def settings(self, principal: Principal) -> OrganizationSettings:
        """Return the settings of the principal's organisation."""
        return OrganizationSettings() if self._store is None else read_settings(await self._store.settings(principal))

    async def undeclared(self, principal: Principal) -> list[AgentRow]:
        """List the rows that no file declares, of the agents that the principal's organisation allows."""
        rows = await self._catalogue.undeclared()
        if self._store is None or not rows:
            return list(rows)
        return allowed_rows(rows, read_settings(await self._store.settings(principal)))


def read_settings(written: Mapping[str, object]) -> OrganizationSettings:
    """Parse the settings stored in the database.

    A value of the wrong type is logged and ignored, except that an invalid `allowed_*` list allows nothing. Those of
    `limits`, which the database ignores as well, are only logged here.
    """
    _check_limits(written.get("limits"))
    read: dict[str, object] = {}
    for name in NAMES:
        value = written.get(name)
        if value is None:
            continue
        typed = typed_setting(name, value)
        if typed is None:
            _warn(name, value)
            if name in LISTS:  # fail closed
                read[name] = ()
        else:
            read[name] = typed
    return replace(OrganizationSettings(), **read)


def _check_limits(limits: object) -> None:
    if limits is None:
        return
    if not is_object(limits):
        _warn("limits", limits)
        return
    for name in LIMITS:
        value = limits.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            _warn(f"limits.{name}", value)


def _warn(setting: str, value: object) -> None:
    _log.warning("organization_setting_unreadable", extra={"setting": setting, "type": type(value).__name__})


def allowed(entries: Iterable[CatalogueEntry], settings: OrganizationSettings) -> list[CatalogueEntry]:
    """Filter the agents and their models by the settings.

    An agent without any allowed model is removed too.
    """
    agents, models = settings.allowed_agents, settings.allowed_models
    result: list[CatalogueEntry] = []
    for entry in entries:
        if agents is not None and entry.name not in agents:
            continue
        own = entry.row.models
        if models is not None:
            own = tuple(model for model in own if model_names(entry, model) & set(models))
        if own or not entry.row.models:
            result.append(entry if own == entry.row.models else _with_models(entry, own))
    return result


def allowed_rows(rows: Iterable[AgentRow], settings: OrganizationSettings) -> list[AgentRow]:
    """Filter the rows of agents that no file declares by the settings."""
    return [row for row in rows if settings.allowed_agents is None or row.name in settings.allowed_agents]


def model_names(entry: CatalogueEntry, model: ModelRow) -> set[str]:
    """Return the names that `allowed_models` can use for a model."""
    return {model.name, model.model_id, f"{entry.name}/{model.name}"}


def _with_models(entry: CatalogueEntry, models: tuple[ModelRow, ...]) -> CatalogueEntry:
    """Return the agent with only these models; if its default is removed, the first enabled one replaces it."""
    row = replace(entry.row, models=models)
    left = replace(entry, row=row)
    if left.default_model_name is None or left.default_model() is not None:
        return left
    first = next((model.name for model in models if model.enabled), models[0].name)
    return replace(entry, row=replace(row, default_model=first))


def typed_setting(name: str, value: object) -> object | None:
    """Return a setting's value converted to its type, None if it has another type."""
    match name, value:
        case ("temperature", int() | float()) if not isinstance(value, bool):
            return float(value)
        case ("max_tokens", int()) if not isinstance(value, bool):
            return value
        case ("default_agent" | "default_model" | "system_prompt", str()) if value:
            return value
        case ("allowed_agents" | "allowed_models", list() | tuple()):
            items = cast("Sequence[object]", value)
            return tuple(map(str, items)) if all(isinstance(item, str) for item in items) else None
        case _:
            return None
