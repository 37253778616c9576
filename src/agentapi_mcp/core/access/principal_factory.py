"""The one place that makes principals: from what the database and a credential tell of a user."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.access.models import Account, Membership, Service
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope, read_exceptions, read_role

LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What let a user in: its name, the scopes that it is limited to (None: to none), and when it ends."""

    via: str = LOCAL
    scopes: frozenset[TokenScope] | None = None
    expires_at: datetime | None = None


OF_THE_MACHINE = Credential()


def local_owner(user_id: UserId, org_id: OrgId) -> Principal:
    """Return the user of a private database, who owns the one organisation in it."""
    return Principal(user_id, org_id)


def member(
    user_id: UserId, membership: Membership, roles: Mapping[str, Role], credential: Credential = OF_THE_MACHINE
) -> Principal:
    """Return a user with their rights in an organisation; `roles` translates words for roles that are not ours."""
    return Principal(
        user_id,
        membership.org_id,
        read_role(membership.role, roles),
        scopes=credential.scopes,
        exceptions=read_exceptions(membership.permissions),
        via=credential.via,
        expires_at=credential.expires_at,
    )


def service(account: Account, declared: Service, credential: Credential) -> Principal:
    """Return a program with the organisation and role that the operator declares for it."""
    return Principal(
        account.user_id,
        declared.org_id,
        declared.role,
        scopes=credential.scopes,
        exceptions=read_exceptions(account.memberships[0].permissions),
        via=credential.via,
        expires_at=credential.expires_at,
    )


def without_scopes(principal: Principal) -> Principal:
    """Return the user without the limits of their token, to tell what they could do after signing in anew."""
    return replace(principal, scopes=None)
