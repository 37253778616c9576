"""Settings and usage numbers of an organisation, for its administrators."""

from collections.abc import Mapping

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.validation import MAX_NAME
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.catalogue.catalogue import Catalogue
from agentapi_mcp.core.catalogue.models import Organization
from agentapi_mcp.core.catalogue.organization_settings import check_setting
from agentapi_mcp.core.catalogue.policy import NAMES, typed_setting
from agentapi_mcp.core.catalogue.ports import OrganizationStore
from agentapi_mcp.core.identity.principals import Action, Principal, require


class Organizations:
    """The principal's own organisation."""

    def __init__(self, store: OrganizationStore, catalogue: Catalogue, audit: AuditLog) -> None:
        self._store = store
        self._audit = audit
        self._catalogue = catalogue

    async def get(self, principal: Principal) -> Organization:
        """Return the organisation with its numbers.

        Raises:
            PermissionDeniedError: the principal is not an administrator.
        """
        require(principal, Action.READ_ORGANIZATION)
        return await self._store.get(principal)

    async def change(self, principal: Principal, changes: Mapping[str, object]) -> Organization:
        """Set the settings in `changes`, unset those that are None, and leave the others.

        Raises:
            InvalidRequestError: a setting is unknown, or its value is invalid; nothing is changed.
            PermissionDeniedError: the principal is not an administrator.
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
