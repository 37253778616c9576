"""An organisation's settings and numbers, for its administrators; and what its settings allow."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import cast

from agentapi_mcp.core.catalogue import Catalogue, CatalogueEntry
from agentapi_mcp.core.errors import InvalidRequestError
from agentapi_mcp.core.identity import Action, Principal, require
from agentapi_mcp.core.records.agents import ModelRow
from agentapi_mcp.core.records.organizations import Organization, OrganizationSettings
from agentapi_mcp.core.records.turns import Parameters
from agentapi_mcp.core.requests import MAX_NAME, check_parameters, check_text
from agentapi_mcp.core.store_ports import OrganizationStore

NAMES = tuple(field.name for field in fields(OrganizationSettings))
_LISTS = frozenset({"allowed_agents", "allowed_models"})
_MOST_ALLOWED = 200
_log = logging.getLogger(__name__)


class Allowances:
    """The catalogue as the members of an organisation see it; without a store everything is allowed."""

    def __init__(self, catalogue: Catalogue, store: OrganizationStore | None = None) -> None:
        self._store = store
        self._catalogue = catalogue

    async def entries(self, principal: Principal) -> list[CatalogueEntry]:
        """List the agents that the principal's organisation allows."""
        entries = await self._catalogue.entries()
        if self._store is None:
            return list(entries)
        return allowed(entries, read_settings(await self._store.settings(principal)))


class Organizations:
    """The organisation of whoever asks, and no other."""

    def __init__(self, store: OrganizationStore, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue

    async def get(self, principal: Principal) -> Organization:
        """Show the organisation.

        Raises:
            PermissionDeniedError: only its administrators may.
        """
        require(principal, Action.READ_ORGANIZATION)
        return await self._store.get(principal)

    async def change(self, principal: Principal, changes: Mapping[str, object]) -> Organization:
        """Set what `changes` names, take back what it says None for, and leave all else as it is.

        Raises:
            InvalidRequestError: a setting is unknown, or its value cannot be meant; nothing is changed.
            PermissionDeniedError: only its administrators may.
        """
        require(principal, Action.EDIT_ORGANIZATION)
        if not changes:
            raise InvalidRequestError(f"Say what to set or to unset: {', '.join(NAMES)}.")
        for name in changes:
            if name not in NAMES:
                raise InvalidRequestError(f"There is no setting {name[:MAX_NAME]!r}; there are: {', '.join(NAMES)}.")
        entries = await self._catalogue.entries()
        for name, value in changes.items():
            _check(name, value, entries)
        await self._store.change(principal, changes)
        return await self._store.get(principal)


def read_settings(written: Mapping[str, object]) -> OrganizationSettings:
    """Read the settings as a database has them.

    A value of another type says nothing, and is told in the log; an allowance of another type allows nothing.
    """
    read: dict[str, object] = {}
    for name in NAMES:
        value = written.get(name)
        if value is None:
            continue
        kept = _typed(name, value)
        if kept is None:
            _log.warning("organization_setting_unreadable", extra={"setting": name, "type": type(value).__name__})
            if name in _LISTS:
                read[name] = ()
        else:
            read[name] = kept
    return replace(OrganizationSettings(), **read)


def allowed(entries: Iterable[CatalogueEntry], settings: OrganizationSettings) -> list[CatalogueEntry]:
    """Keep the agents that the organisation allows, each with the models that it allows.

    An agent none of whose models is allowed is not there for its members either.
    """
    agents, models = settings.allowed_agents, settings.allowed_models
    kept: list[CatalogueEntry] = []
    for entry in entries:
        if agents is not None and entry.name not in agents:
            continue
        own = entry.row.models
        if models is not None:
            own = tuple(model for model in own if _names(entry, model) & set(models))
        if own or not entry.row.models:
            kept.append(entry if own == entry.row.models else _with_models(entry, own))
    return kept


def _names(entry: CatalogueEntry, model: ModelRow) -> set[str]:
    return {model.name, model.model_id, f"{entry.name}/{model.name}"}


def _with_models(entry: CatalogueEntry, models: tuple[ModelRow, ...]) -> CatalogueEntry:
    """Return an agent with these of its models; where its default is none of them, the first is."""
    row = replace(entry.row, models=models)
    left = replace(entry, row=row)
    if left.default_model_name is None or left.default_model() is not None:
        return left
    first = next((model.name for model in models if model.enabled), models[0].name)
    return replace(entry, row=replace(row, default_model=first))


def _typed(name: str, value: object) -> object | None:
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


def _check(name: str, value: object, entries: Sequence[CatalogueEntry]) -> None:
    if value is None:
        return
    typed = _typed(name, value)
    if typed is None:
        kind = "a list of names" if name in _LISTS else {"temperature": "a number", "max_tokens": "a whole number"}
        words = kind if isinstance(kind, str) else kind.get(name, "text that is not blank")
        raise InvalidRequestError(f"must be {words}.", argument=name)
    match name, typed:
        case ("temperature", float()):
            check_parameters(Parameters(temperature=typed))
        case ("max_tokens", int()):
            check_parameters(Parameters(max_tokens=typed))
        case ("system_prompt", str()):
            check_parameters(Parameters(system_prompt=typed))
        case (_, tuple()):
            _check_names(name, cast("tuple[str, ...]", typed), entries)
        case _:
            _check_names(name, (str(typed),), entries)


def _check_names(name: str, given: tuple[str, ...], entries: Sequence[CatalogueEntry]) -> None:
    if not 1 <= len(given) <= _MOST_ALLOWED:
        raise InvalidRequestError(
            f"must have between 1 and {_MOST_ALLOWED} names; unset it to allow all.", argument=name
        )
    if name.endswith(("agent", "agents")):
        known = {entry.name for entry in entries}
    else:
        known = {each for entry in entries for model in entry.row.models for each in _names(entry, model)}
    for one in given:
        check_text(one, name, MAX_NAME)
        if one not in known:
            what = "agent" if name.endswith(("agent", "agents")) else "model"
            raise InvalidRequestError(f"names {one!r}, and there is no such {what}; see list_{what}s.", argument=name)
