"""Manage members and invitations of an organisation."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import ConflictError, InvalidRequestError, NotFoundError
from agentapi_mcp.base.ids import OrgId, new_id
from agentapi_mcp.base.validation import MAX_NAME, PLAIN_EMAIL, check_text
from agentapi_mcp.core.access.models import (
    Invitation,
    MemberList,
    MembershipStatus,
    OrganizationMember,
    OwnOrganization,
)
from agentapi_mcp.core.access.ports import MemberStore
from agentapi_mcp.core.access.principal_factory import LOCAL
from agentapi_mcp.core.access.principal_factory import member as principal_of
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.identity.principals import Action, Principal, Role, require

INVITED_FOR = timedelta(days=14)
_LONGEST_EMAIL = 254  # RFC 5321, section 4.5.3.1.3
Check = Callable[[Sequence[OrganizationMember]], None]


class Memberships:
    """Members of the principal's own organisation; `roles` maps aliases of roles."""

    def __init__(
        self, store: MemberStore, clock: Clock, audit: AuditLog, roles: Mapping[str, Role] = MappingProxyType({})
    ) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit
        self._roles = roles

    async def list_(self, principal: Principal) -> MemberList:
        """List members and open invitations.

        Raises:
            PermissionDeniedError: the principal is not an administrator.
        """
        require(principal, Action.READ_ORGANIZATION)
        return await self._store.list_(principal, self._clock.now())

    async def own(self, principal: Principal) -> tuple[OwnOrganization, ...]:
        """List the organisations in which the principal's user may work, theirs first; of a token, its own alone."""
        found = list[OwnOrganization]()
        for each in await self._store.of_user(principal):
            membership = each.membership
            if membership.org_id == principal.org_id:
                found.insert(0, OwnOrganization(each.organization, principal))
            elif principal.via == LOCAL and membership.status is MembershipStatus.ACTIVE:
                found.append(
                    OwnOrganization(each.organization, principal_of(principal.user_id, membership, self._roles))
                )
        return tuple(found)

    async def invite(self, principal: Principal, email: str, role: Role) -> Invitation:
        """Invite a user by e-mail for two weeks; this replaces an earlier invitation.

        Raises:
            InvalidRequestError: the e-mail address is invalid.
            ConflictError: a member has this address.
            PermissionDeniedError: the principal is not an administrator, or not an owner who invites an owner.
        """
        self._require(principal, role)
        address = _email(email)
        current = await self._store.list_(principal, self._clock.now())
        if any(member.email is not None and member.email.lower() == address for member in current.members):
            raise ConflictError(f"A member of your organisation has the address {address}.")
        invitation = Invitation(email=address, role=str(role), expires_at=self._clock.now() + INVITED_FOR)
        await self._store.invite(principal, invitation)
        await self._record(principal, AuditAction.MEMBER_INVITED, ("organization", str(principal.org_id)), role)
        return invitation

    async def withdraw(self, principal: Principal, email: str) -> None:
        """Withdraw an invitation.

        Raises:
            NotFoundError: there is no such invitation.
        """
        require(principal, Action.MANAGE_MEMBERS)
        # Not checked: invitations of any address may have been kept.
        if not await self._store.withdraw(principal, email.strip().lower()):
            raise NotFoundError("There is no such invitation.")
        await self._record(principal, AuditAction.INVITATION_WITHDRAWN, ("organization", str(principal.org_id)))

    async def set_role(self, principal: Principal, which: str, role: Role) -> OrganizationMember:
        """Change the role of a member, by id or e-mail; it takes effect with their next request.

        Raises:
            NotFoundError: there is no such member.
            ConflictError: the member is a service, or the last owner.
            PermissionDeniedError: the principal is not an administrator, or not an owner who changes an owner.
        """
        self._require(principal, role)
        member = await self._find(principal, which)
        await self._store.change(principal, member.user_id, str(role), self._check(principal, member, role))
        await self._record(principal, AuditAction.MEMBER_CHANGED, ("account", str(member.user_id)), role)
        return member

    async def remove(self, principal: Principal, which: str) -> OrganizationMember:
        """Remove a member, by id or e-mail; their tokens for the organisation are refused from now on.

        Raises:
            NotFoundError: there is no such member.
            ConflictError: the member is a service, or the last owner.
            PermissionDeniedError: the principal is not an administrator, or not an owner who removes an owner.
        """
        require(principal, Action.MANAGE_MEMBERS)
        member = await self._find(principal, which)
        await self._store.change(principal, member.user_id, None, self._check(principal, member, None))
        await self._record(principal, AuditAction.MEMBER_REMOVED, ("account", str(member.user_id)))
        return member

    async def create_organization(self, operator: Principal, name: str) -> OrgId:
        """Create an organisation owned by the operator; available to operators with database access only."""
        check_text(name, "name", MAX_NAME)
        if not name.isprintable():
            raise InvalidRequestError("must be one line of printable characters.", argument="name")
        org_id = OrgId(new_id())
        await self._store.create_organization(operator, org_id, name.strip())
        await self._record(operator, AuditAction.ORGANIZATION_CREATED, ("organization", str(org_id)))
        return org_id

    async def _find(self, principal: Principal, which: str) -> OrganizationMember:
        current = await self._store.list_(principal, self._clock.now())
        for member in current.members:
            if which.lower() in {str(member.user_id), (member.email or "").lower()}:
                return member
        raise NotFoundError("There is no such member of your organisation.")

    def _require(self, principal: Principal, role: Role) -> None:
        require(principal, Action.MANAGE_MEMBERS)
        if role is Role.OWNER:
            require(principal, Action.MANAGE_OWNERS)

    def _check(self, principal: Principal, member: OrganizationMember, role: Role | None) -> Check:
        """Build the check that the store runs while it holds the lock on the members."""
        # Under the lock, two owners who remove each other at the same time cannot leave an organisation without one.

        def check(members: Sequence[OrganizationMember]) -> None:
            current = next((each for each in members if each.user_id == member.user_id), None)
            if current is None:
                raise NotFoundError("There is no such member of your organisation.")
            if member.is_service:
                raise ConflictError("This member is a program: [[issuers.services]] in agentapi.toml says what it is.")
            if current.role != Role.OWNER:
                return
            require(principal, Action.MANAGE_OWNERS)
            if role is not Role.OWNER and sum(each.role == Role.OWNER for each in members) == 1:
                raise ConflictError("This is the last owner of your organisation; make somebody else an owner first.")

        return check

    async def _record(
        self, principal: Principal, action: AuditAction, target: tuple[str, str], role: Role | None = None
    ) -> None:
        details = AuditDetails(role=role and str(role))
        await self._audit.record(principal, action, target=AuditTarget(*target), details=details)


def _email(text: str) -> str:
    address = text.strip()
    # Before it is put into lower case, in which the Kelvin sign is a k.
    if len(address) > _LONGEST_EMAIL or not PLAIN_EMAIL.fullmatch(address):
        raise InvalidRequestError(
            "must be an e-mail address of ASCII characters; no token can bring another.", argument="email"
        )
    return address.lower()
