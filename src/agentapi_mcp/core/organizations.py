"""An organisation's settings and numbers, for its administrators; and what its settings allow."""

from collections.abc import Mapping

from agentapi_mcp.core.allowances import NAMES, typed_setting
from agentapi_mcp.core.audit import Audit
from agentapi_mcp.core.catalogue import Catalogue
from agentapi_mcp.core.checked_settings import check_setting
from agentapi_mcp.core.errors import InvalidRequestError
from agentapi_mcp.core.identity import Action, Principal, require
from agentapi_mcp.core.records.audit import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.records.organizations import Organization
from agentapi_mcp.core.requests import MAX_NAME
from agentapi_mcp.core.store_ports import OrganizationStore


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
            if value is not None:
                check_setting(name, typed_setting(name, value), entries, name)
        await self._store.change(principal, changes)
        await self._audit.record(
            principal,
            AuditAction.ORGANIZATION_CHANGED,
            target=AuditTarget("organization", str(principal.org_id)),
            details=AuditDetails(settings=", ".join(sorted(changes))),
        )
        return await self._store.get(principal)
