"""What the database keeps of the members of organisations."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from agentapi_mcp.core.identity import OrgId, UserId
from agentapi_mcp.core.records.members import Invitation, MemberList, OrganizationMember


class MemberStore(Protocol):
    """Memberships and invitations; where others write the memberships of a database, every change is refused.

    Raises:
        ConfigurationError: from each method that writes, on such a database.
    """

    async def list_(self, org_id: OrgId, now: datetime) -> MemberList:
        """List members and open invitations, by e-mail."""
        ...

    async def invite(self, org_id: OrgId, invitation: Invitation) -> None:
        """Keep an invitation, in place of an earlier one."""
        ...

    async def withdraw(self, org_id: OrgId, email: str) -> bool:
        """Take an invitation back; False when there is none."""
        ...

    async def change(
        self, org_id: OrgId, user_id: UserId, role: str | None, check: Callable[[Sequence[OrganizationMember]], None]
    ) -> None:
        """Give a member a role, or with None take the membership away, while nobody else changes any of them.

        `check` is told who is there, and what it raises leaves all as it is.
        """
        ...

    async def create_organization(self, org_id: OrgId, name: str, owner: UserId) -> None:
        """Make an organisation with its first owner."""
        ...
