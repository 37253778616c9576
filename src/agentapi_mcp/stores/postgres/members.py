"""Members and invitations in Postgres; every statement filters by organisation."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.access.models import (
    Invitation,
    MemberList,
    Membership,
    MembershipStatus,
    OrganizationMember,
    OwnMembership,
)
from agentapi_mcp.core.access.ports import MemberStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Connection, Database, Row
from agentapi_mcp.stores.postgres.ownership import is_ours

_MEMBERS: LiteralString = """
SELECT m.user_id, m.role::text AS role, p.email::text AS email,
       EXISTS (SELECT FROM agentapi.identities i WHERE i.user_id = m.user_id AND i.is_service) AS is_service
  FROM public.organization_members m
  JOIN public.profiles p ON p.id = m.user_id
 WHERE m.organization_id = $1
 ORDER BY p.email, m.user_id
"""
_OF_USER: LiteralString = """
SELECT m.organization_id, o.name::text AS organization, m.role::text AS role, m.permissions::text AS permissions,
       agentapi.membership_status(m.user_id, m.organization_id) AS status
  FROM public.organization_members m
  JOIN public.organizations o ON o.id = m.organization_id
 WHERE m.user_id = $1
 ORDER BY o.name, o.id
"""
# All memberships of the organisation, not only the one that changes: two owners must not remove each other at once.
_LOCK: LiteralString = """
SELECT user_id, role::text AS role, NULL AS email, false AS is_service
  FROM public.organization_members
 WHERE organization_id = $1
   FOR UPDATE
"""


class PostgresMembers(MemberStore):
    """Writes only tables of our own schema; in an existing database its application manages memberships."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def list_(self, principal: Principal, now: datetime) -> MemberList:
        async with self._database.as_system(
            "an organisation's members, for its admins", user=principal.user_id, is_list=True
        ) as connection:
            members = await connection.fetch(_MEMBERS, principal.org_id)
            invitations = await connection.fetch(
                "SELECT email, role, expires_at FROM agentapi.invitations WHERE org_id = $1 AND expires_at > $2 "
                "ORDER BY email",
                principal.org_id,
                now,
            )
        return MemberList(
            members=tuple(_member(row) for row in members),
            invitations=tuple(
                Invitation(email=row["email"], role=row["role"], expires_at=row["expires_at"]) for row in invitations
            ),
        )

    @override
    async def of_user(self, principal: Principal) -> tuple[OwnMembership, ...]:
        async with self._database.as_system(
            "the organisations of a user, for themselves", user=principal.user_id, is_list=True
        ) as connection:
            rows = await connection.fetch(_OF_USER, principal.user_id)
        return tuple(_own(row) for row in rows)

    @override
    async def invite(self, principal: Principal, invitation: Invitation) -> None:
        async with self._database.as_system(
            "somebody is invited into an organisation", user=principal.user_id
        ) as connection:
            await _check_ours(connection)
            await connection.execute(
                "INSERT INTO agentapi.invitations (org_id, email, role, expires_at) VALUES ($1, $2, $3, $4) "
                "ON CONFLICT (org_id, email) DO UPDATE SET role = excluded.role, expires_at = excluded.expires_at",
                principal.org_id,
                invitation.email,
                invitation.role,
                invitation.expires_at,
            )

    @override
    async def withdraw(self, principal: Principal, email: str) -> bool:
        async with self._database.as_system("an invitation is taken back", user=principal.user_id) as connection:
            done = await connection.execute(
                "DELETE FROM agentapi.invitations WHERE org_id = $1 AND email = $2 AND expires_at > now()",
                principal.org_id,
                email,
            )
        return done == "DELETE 1"

    @override
    async def change(
        self,
        principal: Principal,
        user_id: UserId,
        role: str | None,
        check: Callable[[Sequence[OrganizationMember]], None],
    ) -> None:
        async with self._database.as_system("a member's role in an organisation", user=principal.user_id) as connection:
            await _check_ours(connection)
            check([_member(row) for row in await connection.fetch(_LOCK, principal.org_id)])
            if role is None:
                await connection.execute(
                    "DELETE FROM public.organization_members WHERE organization_id = $1 AND user_id = $2",
                    principal.org_id,
                    user_id,
                )
            else:
                await connection.execute(
                    "UPDATE public.organization_members SET role = $3 WHERE organization_id = $1 AND user_id = $2",
                    principal.org_id,
                    user_id,
                    role,
                )

    @override
    async def create_organization(self, operator: Principal, org_id: OrgId, name: str) -> None:
        async with self._database.as_system("the operator makes an organisation", user=operator.user_id) as connection:
            await _check_ours(connection)
            await connection.execute("INSERT INTO public.organizations (id, name) VALUES ($1, $2)", org_id, name)
            await connection.execute(
                "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, 'owner')",
                org_id,
                operator.user_id,
            )


def _own(row: Row) -> OwnMembership:
    permissions = json.loads(row["permissions"] or "null")
    status = MembershipStatus(row["status"])
    return OwnMembership(
        Membership(OrgId(row["organization_id"]), row["role"], permissions, status), row["organization"] or ""
    )


async def _check_ours(connection: Connection) -> None:
    if not await is_ours(connection, "organizations", "organization_members"):
        raise ConfigurationError(
            "This database had organisations before: who is in them is for the application to say that made them."
        )


def _member(row: Row) -> OrganizationMember:
    return OrganizationMember(
        user_id=UserId(row["user_id"]), role=row["role"] or "", email=row["email"], is_service=row["is_service"]
    )
