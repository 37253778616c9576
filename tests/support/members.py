"""People and organisations in a real database."""

from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.stores.postgres.database import Database


async def new_member(database: Database, of: Principal | None = None, role: Role = Role.OWNER) -> Principal:
    """Make a user, in an organisation of their own or in that of somebody."""
    user_id, org_id = UserId(new_id()), OrgId(new_id()) if of is None else of.org_id
    async with database.as_system("test") as connection:
        if of is None:
            await connection.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'Test')", org_id)
        await connection.execute("INSERT INTO public.profiles (id) VALUES ($1)", user_id)
        await connection.execute(
            "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, $3)",
            org_id,
            user_id,
            str(role),
        )
    return Principal(user_id, org_id, role)
