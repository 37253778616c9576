"""Build principals from memberships and credentials; no other module does."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from agentapi_mcp.base.errors import PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.access.models import Account, Membership, MembershipStatus, Service
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope, read_exceptions, read_role

LOCAL = "local"
_REFUSALS: Mapping[MembershipStatus, str] = {
    MembershipStatus.REMOVED: "You are no longer a member of this organisation; ask an administrator.",
    MembershipStatus.SUSPENDED: "Your account is suspended here; ask an administrator.",
    MembershipStatus.ORGANIZATION_DELETED: "Your organisation was deleted here; ask an administrator.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """How a user was authenticated; `scopes` None means no restriction."""

    via: str = LOCAL
    scopes: frozenset[TokenScope] | None = None
    expires_at: datetime | None = None
    toolsets: frozenset[str] | None = None


LOCAL_CREDENTIAL = Credential()


def local_owner(user_id: UserId, org_id: OrgId) -> Principal:
    """Build the principal of a private database, who owns its only organisation."""
    return Principal(user_id, org_id)


def member(
    user_id: UserId, membership: Membership, roles: Mapping[str, Role], credential: Credential = LOCAL_CREDENTIAL
) -> Principal:
    """Build the principal of a member; `roles` maps aliases of roles.

    Raises:
        PermissionDeniedError: the user is suspended, or the organisation was deleted.
    """
    _require_active(user_id, membership)
    return Principal(
        user_id,
        membership.org_id,
        read_role(membership.role, roles),
        scopes=credential.scopes,
        exceptions=read_exceptions(membership.permissions),
        via=credential.via,
        expires_at=credential.expires_at,
        toolsets=credential.toolsets,
    )


def service(account: Account, declared: Service, credential: Credential) -> Principal:
    """Build the principal of a service, with its declared organisation and role.

    Raises:
        PermissionDeniedError: the service is suspended, or the organisation was deleted.
    """
    (membership,) = account.memberships
    _require_active(account.user_id, membership)
    return Principal(
        account.user_id,
        declared.org_id,
        declared.role,
        scopes=credential.scopes,
        exceptions=read_exceptions(membership.permissions),
        via=credential.via,
        expires_at=credential.expires_at,
    )


def without_scopes(principal: Principal) -> Principal:
    """Return the principal without the scopes of their token, with the rights that they have after signing in."""
    return replace(principal, scopes=None)


def _require_active(user_id: UserId, membership: Membership) -> None:
    if membership.status is not MembershipStatus.ACTIVE:
        raise PermissionDeniedError(_REFUSALS[membership.status], member=(user_id, membership.org_id))
