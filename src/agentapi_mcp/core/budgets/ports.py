"""Ports of budgets."""

from decimal import Decimal
from typing import Protocol
from uuid import UUID

from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.core.budgets.models import Budget, BudgetKind
from agentapi_mcp.core.identity.principals import Principal


class BudgetStore(Protocol):
    """Budgets, and what is spent of them."""

    async def list_(self, principal: Principal) -> tuple[Budget, ...]:
        """List those of the principal's organisation that the principal may see: administrators all, members theirs."""
        ...

    async def list_as_operator(self, operator: Principal, org_id: OrgId) -> tuple[Budget, ...]:
        """List all that hold for an organisation, and those of plans; or raise NotFoundError."""
        ...

    async def set(self, principal: Principal, kind: BudgetKind, limit_usd: Decimal) -> UUID:
        """Set a budget of the principal's organisation, or change the limit of the one that is of this kind.

        Raises:
            NotFoundError: there is no such user or key in the organisation.
        """
        ...

    async def set_as_operator(
        self, operator: Principal, org_id: OrgId | None, kind: BudgetKind, limit_usd: Decimal
    ) -> UUID:
        """Set one of any organisation, or of a plan."""
        ...

    async def remove(self, principal: Principal, budget_id: UUID) -> None:
        """Remove one that an administrator of the principal's organisation has set, or raise NotFoundError."""
        ...

    async def remove_as_operator(self, operator: Principal, budget_id: UUID) -> OrgId | None:
        """Remove any, or raise NotFoundError; return whose it was, None for a plan's."""
        ...

    async def plan_of(self, operator: Principal, org_id: OrgId) -> str | None:
        """Return of which plan an organisation is, None for none; or raise NotFoundError."""
        ...

    async def set_plan(self, operator: Principal, org_id: OrgId, plan: str | None) -> None:
        """Say of which plan an organisation is, or raise NotFoundError."""
        ...
