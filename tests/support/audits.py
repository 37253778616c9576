"""The audit log over a real database."""

from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.stores.postgres.audit import PostgresAudit
from agentapi_mcp.stores.postgres.database import Database


def audit_log(
    database: Database, clock: Clock | None = None, operator: Principal | None = None, max_remembered: int = 10_000
) -> AuditLog:
    """Return a log, which nobody but the `operator` reads whole."""
    operator = operator or Principal(UserId(new_id()), OrgId(new_id()), Role.OWNER)
    return AuditLog(
        PostgresAudit(database),
        clock or SystemClock(),
        operator=operator,
        max_remembered=max_remembered,
    )
