"""The audit log over a real database."""

from datetime import timedelta

from agentapi_mcp.core.audit import Audit
from agentapi_mcp.core.clocks import SystemClock
from agentapi_mcp.core.identity import OrgId, Principal, Role, UserId
from agentapi_mcp.core.ids import new_id
from agentapi_mcp.core.ports import Clock
from agentapi_mcp.stores.postgres.audit import PostgresAudit
from agentapi_mcp.stores.postgres.database import Database


def audit_log(database: Database, clock: Clock | None = None, operator: Principal | None = None) -> Audit:
    """Return a log of a year, which nobody but the `operator` reads whole."""
    operator = operator or Principal(UserId(new_id()), OrgId(new_id()), Role.OWNER)
    return Audit(PostgresAudit(database), clock or SystemClock(), operator=operator, retention=timedelta(days=365))
