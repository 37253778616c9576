"""An organisation's settings and numbers, for its administrators; and what its settings allow."""

from collections.abc import Mapping, Sequence
from typing import cast

from agentapi_mcp.core.allowances import LISTS, NAMES, model_names, typed_setting
from agentapi_mcp.core.audit import Audit
from agentapi_mcp.core.catalogue import Catalogue, CatalogueEntry
from agentapi_mcp.core.errors import InvalidRequestError
from agentapi_mcp.core.identity import Action, Principal, require
from agentapi_mcp.core.records.audit import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.records.organizations import Organization
from agentapi_mcp.core.records.turns import Parameters
from agentapi_mcp.core.requests import MAX_NAME, check_parameters, check_text
from agentapi_mcp.core.store_ports import OrganizationStore

_MOST_ALLOWED = 200


class Organizations:
    """The organisation of whoever asks, and no other."""

    def __init__(self, store: OrganizationStore, catalogue: Catalogue, audit: Audit) -> None:
        self._store = store
        self._audit = audit
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
        await self._audit.record(
            principal,
            AuditAction.ORGANIZATION_CHANGED,
            target=AuditTarget("organization", str(principal.org_id)),
            details=AuditDetails(settings=", ".join(sorted(changes))),
        )
        return await self._store.get(principal)


def _check(name: str, value: object, entries: Sequence[CatalogueEntry]) -> None:
    if value is None:
        return
    typed = typed_setting(name, value)
    if typed is None:
        kind = "a list of names" if name in LISTS else {"temperature": "a number", "max_tokens": "a whole number"}
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
        known = {each for entry in entries for model in entry.row.models for each in model_names(entry, model)}
    for one in given:
        check_text(one, name, MAX_NAME)
        if one not in known:
            what = "agent" if name.endswith(("agent", "agents")) else "model"
            raise InvalidRequestError(f"names {one!r}, and there is no such {what}; see list_{what}s.", argument=name)
