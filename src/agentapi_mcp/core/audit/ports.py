"""Storage port of the audit log."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from agentapi_mcp.base.paging import Page
from agentapi_mcp.core.audit.models import AuditEvent, AuditFilter
from agentapi_mcp.core.identity.principals import Principal


class AuditStore(Protocol):
    """Append-only audit events."""

    async def append(self, events: Sequence[AuditEvent]) -> None:
        """Store events; an event with a known id is ignored, so that a retry is safe."""
        ...

    async def list_(
        self, principal: Principal, criteria: AuditFilter, *, include_unowned: bool, cursor: str | None, limit: int
    ) -> Page[AuditEvent]:
        """Page through the events of the principal's organisation, and with `include_unowned` those without one.

        The newest event comes first.
        """
        ...

    async def ensure_partitions(self, moment: datetime) -> None:
        """Create the missing partitions for the month of this moment and the next one."""
        ...

    async def has_expired(self, before: datetime) -> bool:
        """Return whether there is a partition that ended before this moment."""
        ...
