"""The storage port of usage."""

from typing import Protocol

from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.usage.models import UsageGroup, UsageRows, UsageSpan


class UsageStore(Protocol):
    """The ledger and its sums by day, as a principal may read them."""

    async def sums(
        self, principal: Principal, span: UsageSpan, by: UsageGroup | None, *, whole: bool, limit: int
    ) -> UsageRows:
        """Add up the principal's own usage, or that of the `whole` organisation.

        Of more than `limit` groups, those that cost most are returned, and of days the newest.
        """
        ...
