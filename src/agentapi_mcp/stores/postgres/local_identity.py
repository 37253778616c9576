"""The local user of an installation, and memberships in Postgres."""

import json
from collections.abc import Collection, Mapping

from typing_extensions import override

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.access.models import AccountNames, Membership, MembershipStatus
from agentapi_mcp.core.access.ports import ProfileStore
from agentapi_mcp.core.access.principal_factory import local_owner
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.connections import Lane
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.ownership import is_ours


class PostgresProfiles(ProfileStore):
    """Existing profiles, and in our own databases the local profile."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def local_principal(self) -> Principal:
        """Find the local user and personal organisation; create them on first use in a database of our own.

        Raises:
            ConfigurationError: another application manages the profiles, so none is created.
        """
        async with self._database.as_system("the machine's user on a private database") as connection:
            found = await _find_local(connection)
            if found is None:
                await self._make(connection)
                found = await _find_local(connection)
        if found is None:  # pragma: no cover  # created in the same transaction
            raise ConfigurationError("The local profile could not be made.")
        return found

    @override
    async def find_local_principal(self) -> Principal | None:
        async with self._database.as_system("the machine's user on a private database") as connection:
            return await _find_local(connection)

    async def _make(self, connection: Connection) -> None:
        # Two processes may start at once: the second one waits here, and then finds the row of the first.
        await connection.execute("LOCK TABLE agentapi.local_identity IN SHARE ROW EXCLUSIVE MODE")
        if await connection.fetchval("SELECT EXISTS (SELECT FROM agentapi.local_identity)"):
            return
        user_id, org_id = new_id(), new_id()
        await connection.execute(
            "INSERT INTO public.organizations (id, name, metadata) VALUES ($1, 'Personal', '{\"personal\": true}')",
            org_id,
        )
        await connection.execute(
            "INSERT INTO public.profiles (id, full_name, current_organization_id) VALUES ($1, 'Local user', $2)",
            user_id,
            org_id,
        )
        await connection.execute(
            "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, 'owner')",
            org_id,
            user_id,
        )
        await connection.execute(
            "INSERT INTO agentapi.local_identity (user_id, org_id) VALUES ($1, $2)", user_id, org_id
        )

    @override
    async def find_membership(self, user_id: UserId, org_id: OrgId) -> Membership | None:
        async with self._database.as_system("who the configured user is", lane=Lane.RESERVED) as connection:
            row = await connection.fetchrow(
                "SELECT m.role::text AS role, m.permissions::text AS permissions, "
                "agentapi.membership_status($1, $2) AS status FROM public.organization_members m "
                "JOIN public.profiles p ON p.id = m.user_id WHERE m.user_id = $1 AND m.organization_id = $2",
                user_id,
                org_id,
            )
        if row is None:
            return None
        return Membership(
            org_id, row["role"], json.loads(row["permissions"] or "null"), MembershipStatus(row["status"])
        )

    @override
    async def find_names(self, user_id: UserId, org_id: OrgId) -> AccountNames:
        async with self._database.as_system("for whom a key is entered", user=user_id) as connection:
            row = await connection.fetchrow(
                "SELECT (SELECT p.email::text FROM public.profiles p WHERE p.id = $1) AS account, "
                "(SELECT o.name::text FROM public.organizations o WHERE o.id = $2) AS organization",
                user_id,
                org_id,
            )
        return AccountNames(None, None) if row is None else AccountNames(row["account"], row["organization"])

    @override
    async def membership_statuses(
        self, members: Collection[tuple[UserId, OrgId]]
    ) -> Mapping[tuple[UserId, OrgId], MembershipStatus]:
        async with self._database.as_system("whose turns may go on", lane=Lane.RESERVED) as connection:
            rows = await connection.fetch(
                "SELECT w.user_id, w.org_id, agentapi.membership_status(w.user_id, w.org_id) AS status "
                "FROM unnest($1::uuid[], $2::uuid[]) AS w (user_id, org_id)",
                [user_id for user_id, _ in members],
                [org_id for _, org_id in members],
            )
        return {(UserId(row["user_id"]), OrgId(row["org_id"])): MembershipStatus(row["status"]) for row in rows}


async def _find_local(connection: Connection) -> Principal | None:
    if not await is_ours(connection, "profiles"):
        raise ConfigurationError(
            "This database has profiles of its own: set AGENTAPI_USER_ID and AGENTAPI_ORG_ID, to say who you are."
        )
    row = await connection.fetchrow("SELECT user_id, org_id FROM agentapi.local_identity")
    return None if row is None else local_owner(UserId(row["user_id"]), OrgId(row["org_id"]))
