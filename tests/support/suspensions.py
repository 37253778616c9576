"""How the application of an existing database suspends users and deletes organisations, in columns of its own."""

from collections.abc import Mapping

import asyncpg

from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.access.models import MembershipStatus

# In place of those that a database of ours has.
COLUMNS = """
ALTER TABLE public.profiles DROP COLUMN IF EXISTS status;
ALTER TABLE public.organizations DROP COLUMN IF EXISTS is_deleted;
CREATE TYPE public.user_status AS ENUM ('active', 'inactive', 'pending', 'suspended');
ALTER TABLE public.profiles ADD COLUMN status public.user_status DEFAULT 'active', ADD COLUMN is_deleted boolean;
ALTER TABLE public.organizations ADD COLUMN is_deleted boolean NOT NULL DEFAULT false;
ALTER TABLE public.organization_members ADD COLUMN is_deleted boolean;
"""
# Each way in which a user ($1) loses an organisation ($2), with what the program makes of it.
WAYS: Mapping[str, tuple[str, MembershipStatus]] = {
    "removed": (
        "DELETE FROM public.organization_members WHERE user_id = $1 AND organization_id = $2",
        MembershipStatus.REMOVED,
    ),
    "membership deleted": (
        "UPDATE public.organization_members SET is_deleted = true WHERE user_id = $1 AND organization_id = $2",
        MembershipStatus.REMOVED,
    ),
    "suspended": (
        "UPDATE public.profiles SET status = 'suspended' WHERE id = $1 AND $2::uuid IS NOT NULL",
        MembershipStatus.SUSPENDED,
    ),
    "profile deleted": (
        "UPDATE public.profiles SET is_deleted = true WHERE id = $1 AND $2::uuid IS NOT NULL",
        MembershipStatus.SUSPENDED,
    ),
    "organisation deleted": (
        "UPDATE public.organizations SET is_deleted = true WHERE id = $2 AND $1::uuid IS NOT NULL",
        MembershipStatus.ORGANIZATION_DELETED,
    ),
}


async def run_as_owner(url: str, sql: str, *arguments: object) -> None:
    """Change a database as the owner of its tables."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET row_security = off")
        await connection.execute(sql, *arguments)
    finally:
        await connection.close()


async def end_membership(url: str, way: str, user_id: UserId, org_id: OrgId) -> None:
    """Let a user lose an organisation."""
    await run_as_owner(url, WAYS[way][0], user_id, org_id)
