"""Who is in an organisation, for its administrators, and who may come in."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import ConflictError, InvalidRequestError, NotFoundError
from agentapi_mcp.base.ids import OrgId, new_id
from agentapi_mcp.base.validation import MAX_NAME, check_text
from agentapi_mcp.core.access.models import Invitation, MemberList, OrganizationMember
from agentapi_mcp.core.access.ports import MemberStore
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.identity.principals import Action, Principal, Role, require

INVITED_FOR = timedelta(days=14)
_LONGEST_EMAIL = 254  # RFC 5321, section 4.5.3.1.3
Check = Callable[[Sequence[OrganizationMember]], None]


class Memberships:
    """The members of the principal's organisation, and of no other."""

    def __init__(self, store: MemberStore, clock: Clock, audit: AuditLog) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit

    async def list_(self, principal: Principal) -> MemberList:
        """List members and open invitations.

        Raises:
            PermissionDeniedError: only administrators may.
        """
        require(principal, Action.READ_ORGANIZATION)
        return await self._store.list_(principal.org_id, self._clock.now())

    async def invite(self, principal: Principal, email: str, role: Role) -> Invitation:
        """Expect somebody by their e-mail for two weeks; an earlier invitation of theirs is replaced.

        Raises:
            InvalidRequestError: it is no e-mail address.
            ConflictError: a member has this address.
            PermissionDeniedError: only administrators may, and only owners invite an owner.
        """
        self._require(principal, role)
        address = _email(email)
        there = await self._store.list_(principal.org_id, self._clock.now())
        if any(member.email is not None and member.email.lower() == address for member in there.members):
            raise ConflictError(f"A member of your organisation has the address {address}.")
        invitation = Invitation(email=address, role=str(role), expires_at=self._clock.now() + INVITED_FOR)
        await self._store.invite(principal.org_id, invitation)
        await self._record(principal, AuditAction.MEMBER_INVITED, ("organization", str(principal.org_id)), role)
        return invitation

    async def withdraw(self, principal: Principal, email: str) -> None:
        """Take an invitation back.

        Raises:
            NotFoundError: there is none.
        """
        require(principal, Action.MANAGE_MEMBERS)
        if not await self._store.withdraw(principal.org_id, _email(email)):
            raise NotFoundError("There is no such invitation.")
        await self._record(principal, AuditAction.INVITATION_WITHDRAWN, ("organization", str(principal.org_id)))

    async def set_role(self, principal: Principal, which: str, role: Role) -> OrganizationMember:
        """Give a member, by id or e-mail, another role; it counts from their next request on.

        Raises:
            NotFoundError: there is no such member.
            ConflictError: it is a program, or the last owner.
            PermissionDeniedError: only administrators may, and only owners make owners or other roles of them.
        """
        self._require(principal, role)
        member = await self._find(principal, which)
        await self._store.change(principal.org_id, member.user_id, str(role), self._check(principal, member, role))
        await self._record(principal, AuditAction.MEMBER_CHANGED, ("account", str(member.user_id)), role)
        return member

    async def remove(self, principal: Principal, which: str) -> OrganizationMember:
        """Take a membership away: from now on they are not let in here, and their tokens for it open nothing.

        Raises:
            NotFoundError: there is no such member.
            ConflictError: it is a program, or the last owner.
            PermissionDeniedError: only administrators may, and only owners remove an owner.
        """
        require(principal, Action.MANAGE_MEMBERS)
        member = await self._find(principal, which)
        await self._store.change(principal.org_id, member.user_id, None, self._check(principal, member, None))
        await self._record(principal, AuditAction.MEMBER_REMOVED, ("account", str(member.user_id)))
        return member

    async def create_organization(self, operator: Principal, name: str) -> OrgId:
        """Make an organisation whose owner is whoever makes it; for those who have the database, not for clients."""
        check_text(name, "name", MAX_NAME)
        if not name.isprintable():
            raise InvalidRequestError("must be one line of printable characters.", argument="name")
        org_id = OrgId(new_id())
        await self._store.create_organization(org_id, name.strip(), operator.user_id)
        await self._record(operator, AuditAction.ORGANIZATION_CREATED, ("organization", str(org_id)))
        return org_id

    async def _find(self, principal: Principal, which: str) -> OrganizationMember:
        there = await self._store.list_(principal.org_id, self._clock.now())
        for member in there.members:
            if which.lower() in {str(member.user_id), (member.email or "").lower()}:
                return member
        raise NotFoundError("There is no such member of your organisation.")

    def _require(self, principal: Principal, role: Role) -> None:
        require(principal, Action.MANAGE_MEMBERS)
        if role is Role.OWNER:
            require(principal, Action.MANAGE_OWNERS)

    def _check(self, principal: Principal, member: OrganizationMember, role: Role | None) -> Check:
        """Make the check that is done once nobody else can change the members."""

        def check(members: Sequence[OrganizationMember]) -> None:
            now = next((each for each in members if each.user_id == member.user_id), None)
            if now is None:
                raise NotFoundError("There is no such member of your organisation.")
            if member.is_service:
                raise ConflictError("This member is a program: [[issuers.services]] in agentapi.toml says what it is.")
            if now.role != Role.OWNER:
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


def _email(said: str) -> str:
    address = said.strip().lower()
    name, at, domain = address.rpartition("@")
    if not (name and at and domain) or len(address) > _LONGEST_EMAIL or not address.isprintable() or " " in address:
        raise InvalidRequestError("must be an e-mail address.", argument="email")
    return address
