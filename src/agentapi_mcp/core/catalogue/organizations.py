"""Settings, usage numbers and limits of an organisation."""

from collections.abc import Mapping
from dataclasses import replace

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.base.validation import MAX_NAME
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget, EventOwner
from agentapi_mcp.core.catalogue.catalogue import Catalogue
from agentapi_mcp.core.catalogue.models import Organization
from agentapi_mcp.core.catalogue.organization_settings import check_setting
from agentapi_mcp.core.catalogue.policy import LIMITS, NAMES, typed_setting
from agentapi_mcp.core.catalogue.ports import OrganizationStore
from agentapi_mcp.core.identity.principals import Action, Principal, require

_MOST = 9_007_199_254_740_991  # as large as any reader of JSON knows it exactly (RFC 8259, section 6)


class Organizations:
    """The principal's own organisation, and for the operator the limits of any."""

    def __init__(self, store: OrganizationStore, catalogue: Catalogue, audit: AuditLog) -> None:
        self._store = store
        self._audit = audit
        self._catalogue = catalogue

    async def get(self, principal: Principal) -> Organization:
        """Return the organisation with its numbers and limits.

        Raises:
            PermissionDeniedError: the principal is not an administrator.
        """
        require(principal, Action.READ_ORGANIZATION)
        return await self._with_undeclared(await self._store.get(principal))

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
            if name in LIMITS:
                raise InvalidRequestError(f"{name} is a limit, which only the operator of this server sets.")
            if name not in NAMES:
                raise InvalidRequestError(f"There is no setting {name[:MAX_NAME]!r}; there are: {', '.join(NAMES)}.")
        entries = await self._catalogue.entries()
        # Another process on this database may declare an agent that this one does not.
        elsewhere = [row.name for row in await self._catalogue.undeclared() if not row.removed]
        for name, value in changes.items():
            if value is not None:
                check_setting(name, typed_setting(name, value), entries, name, elsewhere)
        await self._store.change(principal, changes)
        await self._record(principal, principal.org_id, ", ".join(sorted(changes)))
        return await self._with_undeclared(await self._store.get(principal))

    async def limit(self, operator: Principal, org_id: OrgId, name: str, most: int | None) -> None:
        """Set a limit of any organisation, None for no limit; available to operators with database access only.

        Raises:
            InvalidRequestError: there is no such limit, or its value is invalid; nothing is changed.
            NotFoundError: there is no such organisation.
        """
        if name not in LIMITS:
            raise InvalidRequestError(f"There is no limit {name[:MAX_NAME]!r}; there are: {', '.join(LIMITS)}.")
        if most is not None and not 0 <= most <= _MOST:
            raise InvalidRequestError(f"must be a whole number between 0 and {_MOST}.", argument=name)
        await self._store.limit(operator, org_id, name, most)
        await self._record(operator, org_id, f"limits.{name}")

    async def _with_undeclared(self, organization: Organization) -> Organization:
        settings, declared = organization.settings, await self._catalogue.declared_names()
        named = dict.fromkeys((*filter(None, (settings.default_agent,)), *(settings.allowed_agents or ())))
        return replace(organization, undeclared_agents=tuple(name for name in named if name not in declared))

    async def _record(self, principal: Principal, org_id: OrgId, settings: str) -> None:
        await self._audit.record(
            principal,
            AuditAction.ORGANIZATION_CHANGED,
            target=AuditTarget("organization", str(org_id)),
            details=AuditDetails(settings=settings),
            whose=EventOwner(org_id, principal.user_id),
        )
