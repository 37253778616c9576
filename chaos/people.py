"""The people of a world with several organisations, each with a token of their own."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg
from tests.support.audits import audit_log

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.access.models import SignInRules
from agentapi_mcp.core.access.personal_tokens import USUAL_SCOPES, PersonalTokens
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.personal_tokens import PostgresPersonalTokens


@dataclass(frozen=True, kw_only=True)
class Person:
    """A member of an organisation, and the token that their clients send."""

    user: UUID
    organization: UUID
    token: str


async def settle(admin_url: str, app_url: str, organizations: int, people: int) -> list[Person]:
    """Make organisations and their members, who are spread over them evenly; the first of each is an administrator."""
    names = [OrgId(new_id()) for _ in range(organizations)]
    members = [
        (names[number % organizations], UserId(new_id()), Role.ADMIN if number < organizations else Role.MEMBER)
        for number in range(people)
    ]
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.executemany(
            "INSERT INTO public.organizations (id, name) VALUES ($1, $2)", [(name, str(name)) for name in names]
        )
        await connection.executemany(
            "INSERT INTO public.profiles (id) VALUES ($1)", [(user,) for _, user, _ in members]
        )
        await connection.executemany(
            "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, $3)",
            [(organization, user, str(role)) for organization, user, role in members],
        )
    finally:
        await connection.close()
    async with open_database(RemoteServer(app_url), PoolOptions()) as database:
        return [await _admitted(database, *member) for member in members]


async def _admitted(database: Database, organization: OrgId, user: UserId, role: Role) -> Person:
    tokens = PersonalTokens(PostgresPersonalTokens(database), SystemClock(), SignInRules(), audit_log(database))
    scopes = (*USUAL_SCOPES, TokenScope.ADMIN) if role is Role.ADMIN else USUAL_SCOPES
    made = await tokens.create(Principal(user, organization, role), "chaos", scopes=scopes)
    return Person(user=user, organization=organization, token=made.secret)
