"""Check for excess privileges of the application's login."""

from agentapi_mcp.stores.postgres.connections import Lane
from agentapi_mcp.stores.postgres.database import Database

_FACTS = (
    ("is_superuser", "is a superuser"),
    ("bypasses", "bypasses row-level security"),
    ("owns", "owns the tables"),
)


async def login_remark(database: Database) -> str | None:
    """Query the database, and return a remark on what the login may do outside the roles that the program sets."""
    async with database.as_system("health", lane=Lane.RESERVED) as connection:
        row = await connection.fetchrow(
            # session_user is the login itself; current_user is the role that the transaction has set.
            "SELECT r.rolsuper AS is_superuser, r.rolbypassrls AND NOT r.rolsuper AS bypasses, "
            "NOT r.rolsuper AND EXISTS (SELECT FROM pg_class t WHERE t.oid = to_regclass('public.chat_sessions') "
            "AND pg_has_role(r.oid, t.relowner, 'MEMBER')) AS owns FROM pg_roles r WHERE r.rolname = session_user"
        )
    found = [words for name, words in _FACTS if row is not None and row[name]]
    if not found:
        return None
    return (
        f"the login {' and '.join(found)}; one of its own is safer: docs/supabase.md#make-a-login makes it, "
        "`agentapi-mcp migrate --grant-to LOGIN` gives it what it needs"
    )
