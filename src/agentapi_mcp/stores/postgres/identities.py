"""Accounts in Postgres: identities of issuers, their users and memberships."""

import json
import logging
from typing import LiteralString
from uuid import UUID

from typing_extensions import override

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.access.models import Account, Membership, MembershipStatus, Service
from agentapi_mcp.core.access.ports import IdentityStore
from agentapi_mcp.stores.postgres.connections import Lane
from agentapi_mcp.stores.postgres.database import Connection, Database, Row
from agentapi_mcp.stores.postgres.ownership import is_ours

# Every request of a signed-in user reads this.
_ACCOUNT: LiteralString = """
SELECT p.id, agentapi.note_sign_in(p.id), p.current_organization_id AS current,
       EXISTS (SELECT FROM agentapi.identities s WHERE s.user_id = p.id AND s.is_service) AS is_service,
       array_agg(m.organization_id ORDER BY m.organization_id) FILTER (WHERE m.user_id IS NOT NULL) AS orgs,
       array_agg(m.role::text ORDER BY m.organization_id) FILTER (WHERE m.user_id IS NOT NULL) AS roles,
       array_agg(m.permissions::text ORDER BY m.organization_id) FILTER (WHERE m.user_id IS NOT NULL) AS permissions,
       array_agg(agentapi.membership_status(m.user_id, m.organization_id) ORDER BY m.organization_id)
           FILTER (WHERE m.user_id IS NOT NULL) AS statuses
  FROM public.profiles p
  LEFT JOIN public.organization_members m ON m.user_id = p.id
"""
_BY_IDENTITY: LiteralString = f"""
{_ACCOUNT} WHERE p.id = (SELECT user_id FROM agentapi.identities WHERE issuer = $1 AND subject = $2) GROUP BY p.id
"""  # noqa: S608  # made of literals
_BY_ID: LiteralString = f"{_ACCOUNT} WHERE p.id = $1 GROUP BY p.id"
_IS_LINKED: LiteralString = """
SELECT EXISTS (SELECT FROM agentapi.identities
                WHERE issuer = $1 AND subject = coalesce($2, subject) AND user_id = $3)
"""
_LINK: LiteralString = """
INSERT INTO agentapi.identities (issuer, subject, user_id, email) VALUES ($1, $2, $3, $4)
ON CONFLICT (issuer, subject) DO NOTHING
"""

# Writable where there is no row-level security, or where a policy permits it.
_FORGEABLE: LiteralString = """
SELECT bool_or(has_column_privilege(r.rolname, p.oid, $1, k.kind)
               AND (NOT p.relrowsecurity OR EXISTS (
                    SELECT FROM pg_policy y
                     WHERE y.polrelid = p.oid AND y.polpermissive AND y.polcmd IN ('*', k.command)
                       AND (y.polroles = '{0}' OR EXISTS (SELECT FROM unnest(y.polroles) AS o
                                                           WHERE pg_has_role(r.rolname, o, 'USAGE'))))))
  FROM pg_class p, pg_roles r, (VALUES ('UPDATE', 'w'), ('INSERT', 'a')) AS k (kind, command)
 WHERE p.oid = 'public.profiles'::regclass AND r.rolname IN ('anon', 'authenticated')
"""
_PROFILE: LiteralString = """
INSERT INTO public.profiles (id, email, full_name, current_organization_id) VALUES ($1, $2, $3, $4)
"""
_MEMBER: LiteralString = """
INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
_SERVICE: LiteralString = """
SELECT i.user_id, i.is_service, m.role::text AS role, m.permissions::text AS permissions,
       m.user_id IS NOT NULL AS is_member, agentapi.membership_status(i.user_id, $3) AS status,
       EXISTS (SELECT FROM public.organization_members o
                WHERE o.user_id = i.user_id AND o.organization_id <> $3) AS is_elsewhere
  FROM agentapi.identities i
  LEFT JOIN public.organization_members m ON m.user_id = i.user_id AND m.organization_id = $3
 WHERE i.issuer = $1 AND i.subject = $2
"""


_log = logging.getLogger(__name__)


class PostgresIdentities(IdentityStore):
    """Maps identities to profiles; concurrent first sign-ins of one subject create a single account."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def find(self, issuer: str, subject: str) -> Account | None:
        async with self._database.as_system("whose token this is", lane=Lane.RESERVED) as connection:
            return _account(await connection.fetchrow(_BY_IDENTITY, issuer, subject))

    @override
    async def is_linked(self, issuer: str, subject: str | None, user_id: UserId) -> bool:
        async with self._database.as_system("whether a visitor is still known", lane=Lane.RESERVED) as connection:
            return bool(await connection.fetchval(_IS_LINKED, issuer, subject, user_id))

    @override
    async def link_workos(self, issuer: str, subject: str) -> Account | None:
        async with self._database.as_system("whose WorkOS id this is", lane=Lane.RESERVED) as connection:
            # Two rows are enough to see that the match is ambiguous.
            found = await connection.fetch("SELECT id FROM public.profiles WHERE workos_id = $1 LIMIT 2", subject)
            if len(found) != 1 or await _is_forgeable(connection, "workos_id"):
                return None
            return await _linked(connection, issuer, subject, found[0]["id"], None)

    @override
    async def link_profile(self, issuer: str, subject: str) -> Account | None:
        try:
            wanted = UUID(subject)
        except ValueError:
            return None
        async with self._database.as_system("whose user id this is", lane=Lane.RESERVED) as connection:
            user_id = await connection.fetchval("SELECT id FROM public.profiles WHERE id = $1", wanted)
            return await _linked(connection, issuer, subject, user_id, None)

    @override
    async def link_email(self, issuer: str, subject: str, email: str) -> Account | None:
        async with self._database.as_system("whose verified e-mail this is", lane=Lane.RESERVED) as connection:
            # The lock serializes two subjects with one e-mail: the second one finds the account already linked.
            await connection.execute("LOCK TABLE agentapi.identities IN SHARE ROW EXCLUSIVE MODE")
            found = await connection.fetch(
                "SELECT id FROM public.profiles WHERE lower(email) = lower($1) AND workos_id IS NULL AND NOT EXISTS "
                "(SELECT FROM agentapi.identities i WHERE i.user_id = profiles.id) LIMIT 2",
                email,
            )
            if len(found) != 1 or await _is_forgeable(connection, "email"):
                return None
            return await _linked(connection, issuer, subject, found[0]["id"], email)

    @override
    async def create(
        self, issuer: str, subject: str, *, email: str | None, name: str | None, org_id: OrgId | None, role: str
    ) -> Account:
        async with self._database.as_system("a first sign-in", lane=Lane.RESERVED) as connection:
            found = await _first_of_all(connection, issuer, subject)
            if found is not None:
                return found
            await _check_ours(connection)
            user_id, org = new_id(), org_id or new_id()
            if org_id is None:
                await connection.execute(
                    "INSERT INTO public.organizations (id, name, metadata) VALUES ($1, $2, '{\"personal\": true}')",
                    org,
                    name or email or "Personal",
                )
            await connection.execute(_PROFILE, user_id, email, name, org)
            await connection.execute(_MEMBER, org, user_id, "owner" if org_id is None else role)
            await connection.execute(_LINK, issuer, subject, user_id, email)
            made = _account(await connection.fetchrow(_BY_ID, user_id))
        assert made is not None  # noqa: S101  # it was made in this transaction
        return made

    @override
    async def accept_invitations(
        self, issuer: str, subject: str, *, email: str, name: str | None, user_id: UserId | None
    ) -> Account | None:
        async with self._database.as_system("somebody signs in who may be invited", lane=Lane.RESERVED) as connection:
            expected = "SELECT EXISTS (SELECT FROM agentapi.invitations WHERE email = $1 AND expires_at > now())"
            # Only then with the table lock, which serializes all first sign-ins.
            if await connection.fetchval(expected, email):
                found = await _first_of_all(connection, issuer, subject)
            else:
                found = _account(await connection.fetchrow(_BY_IDENTITY, issuer, subject))
            if found is not None and found.memberships:  # created by a concurrent request of the same user
                return found
            # Deleted by the statement that reads them: an invitation is accepted once.
            invitations = await connection.fetch(
                "DELETE FROM agentapi.invitations WHERE email = $1 AND expires_at > now() RETURNING org_id, role", email
            )
            if not invitations:
                return None
            first = invitations[0]["org_id"]
            account_id = found.user_id if found is not None else user_id
            if account_id is None:
                account_id = UserId(new_id())
                await connection.execute(_PROFILE, account_id, email, name, first)
            for invitation in invitations:
                await connection.execute(_MEMBER, invitation["org_id"], account_id, invitation["role"])
            await connection.execute(_LINK, issuer, subject, account_id, email)
            return _account(await connection.fetchrow(_BY_ID, account_id))

    @override
    async def place_service(self, issuer: str, subject: str, service: Service) -> Account | None:
        async with self._database.as_system("the place of a declared program", lane=Lane.RESERVED) as connection:
            row = await connection.fetchrow(_SERVICE, issuer, subject, service.org_id)
            if row is None or not _is_placed(row, service):
                ours = await is_ours(connection, "profiles")
                row = await _place(connection, issuer, subject, service) if ours else _checked(row, service)
            if row is None or not row["is_service"]:
                return None
        permissions, status = json.loads(row["permissions"] or "null"), MembershipStatus(row["status"])
        membership = Membership(service.org_id, row["role"], permissions, status)
        return Account(UserId(row["user_id"]), service.org_id, (membership,), is_service=True)


async def _is_forgeable(connection: Connection, column: str) -> bool:
    """Return whether outside clients may write a column of `profiles`, which then proves nothing about its owner."""
    forgeable = await connection.fetchval(_FORGEABLE, column)
    if forgeable:
        _log.warning("identity_not_linked", extra={"reason": f"signed-in users may write profiles.{column}"})
    return forgeable


async def _first_of_all(connection: Connection, issuer: str, subject: str) -> Account | None:
    """Serialize concurrent first sign-ins, and find the account that the other one created."""
    await connection.execute("LOCK TABLE agentapi.identities IN SHARE ROW EXCLUSIVE MODE")
    return _account(await connection.fetchrow(_BY_IDENTITY, issuer, subject))


async def _check_ours(connection: Connection) -> None:
    if not await is_ours(connection, "profiles", "organizations", "organization_members"):
        raise ConfigurationError(
            "This database has profiles of its own: nobody is made there; take `newcomers` out of [[issuers]]."
        )


def _is_placed(row: Row, service: Service) -> bool:
    return row["is_service"] and row["is_member"] and row["role"] == service.role and not row["is_elsewhere"]


def _checked(row: Row | None, service: Service) -> Row:
    """Accept the current place where another application manages profiles and memberships."""
    if row is None or (row["is_service"] and not row["is_member"]):
        raise ConfigurationError(
            f"This database has profiles of its own: give the program {service.label!r} one, a membership of its "
            "organisation, and a row in agentapi.identities with is_service."
        )
    return row


async def _place(connection: Connection, issuer: str, subject: str, service: Service) -> Row | None:
    # The lock serializes concurrent first tokens: the second one finds the account of the first.
    await connection.execute("LOCK TABLE agentapi.identities IN SHARE ROW EXCLUSIVE MODE")
    row = await connection.fetchrow(_SERVICE, issuer, subject, service.org_id)
    if row is not None and not row["is_service"]:
        return None
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM public.organizations WHERE id = $1)", service.org_id):
        raise ConfigurationError(
            f"The organization of the program {service.label!r} ([[issuers.services]]) is not in this database."
        )
    user_id = new_id() if row is None else row["user_id"]
    if row is None:
        await connection.execute("INSERT INTO public.profiles (id, full_name) VALUES ($1, $2)", user_id, service.label)
        await connection.execute(
            "INSERT INTO agentapi.identities (issuer, subject, user_id, is_service) VALUES ($1, $2, $3, true)",
            issuer,
            subject,
            user_id,
        )
    # A service belongs to one organisation: a changed declaration moves it.
    await connection.execute(
        "DELETE FROM public.organization_members WHERE user_id = $1 AND organization_id <> $2", user_id, service.org_id
    )
    await connection.execute(
        "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, $3) "
        "ON CONFLICT (organization_id, user_id) DO UPDATE SET role = excluded.role",
        service.org_id,
        user_id,
        str(service.role),
    )
    await connection.execute(
        "UPDATE public.profiles SET current_organization_id = $2 WHERE id = $1", user_id, service.org_id
    )
    return await connection.fetchrow(_SERVICE, issuer, subject, service.org_id)


async def _linked(
    connection: Connection, issuer: str, subject: str, user_id: UUID | None, email: str | None
) -> Account | None:
    if user_id is None:
        return None
    await connection.execute(_LINK, issuer, subject, user_id, email)
    return _account(await connection.fetchrow(_BY_IDENTITY, issuer, subject))


def _account(row: Row | None) -> Account | None:
    if row is None:
        return None
    memberships = tuple(
        Membership(OrgId(org), role or "", json.loads(permissions or "null"), MembershipStatus(status))
        for org, role, permissions, status in zip(
            *(row[column] or () for column in ("orgs", "roles", "permissions", "statuses")), strict=True
        )
    )
    current = None if row["current"] is None else OrgId(row["current"])
    return Account(UserId(row["id"]), current, memberships, is_service=row["is_service"])
