"""Storage port of the audit log."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from agentapi_mcp.base.paging import Page
from agentapi_mcp.core.audit.models import AuditEvent, AuditFilter
from agentapi_mcp.core.identity.principals import Principal


class AuditStore(Protocol):
    """What happened, as events that nobody changes."""

    async def append(self, events: Sequence[AuditEvent]) -> None:
        """Write events, each once however often it comes."""
        ...

    async def list_(
        self, principal: Principal, asked: AuditFilter, *, nobodys: bool, cursor: str | None, limit: int
    ) -> Page[AuditEvent]:
        """Page through the events of the principal's organisation, newest first; `nobodys` adds those of none."""
        ...

    async def keep_partitions(self, moment: datetime) -> None:
        """Make room for the months from this moment on."""
        ...

    async def has_expired(self, before: datetime) -> bool:
        """Tell whether there is a month that was over before then."""
        ...
