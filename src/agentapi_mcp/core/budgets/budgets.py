"""Use cases of budgets: administrators set those of their organisation, the operator those of any and of plans."""

from dataclasses import replace
from decimal import Decimal
from uuid import UUID

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.ids import OrgId, parse_id
from agentapi_mcp.base.text import listed
from agentapi_mcp.base.validation import MAX_NAME, check_text
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget, EventOwner
from agentapi_mcp.core.budgets.amounts import check_amount
from agentapi_mcp.core.budgets.models import Budget, BudgetKind, BudgetScope
from agentapi_mcp.core.budgets.ports import BudgetStore
from agentapi_mcp.core.catalogue.catalogue import Catalogue
from agentapi_mcp.core.identity.principals import Action, Principal, refusal, require

_WITH_SUBJECT = frozenset({BudgetScope.USER, BudgetScope.AGENT, BudgetScope.KEY})
_WITH_ID = frozenset({BudgetScope.USER, BudgetScope.KEY})
_OF_PLANS = frozenset({BudgetScope.ORGANIZATION, BudgetScope.MEMBER})


class Budgets:
    """The budgets of the principal's organisation, and for the operator those of any."""

    def __init__(self, store: BudgetStore, catalogue: Catalogue, audit: AuditLog) -> None:
        self._store = store
        self._catalogue = catalogue
        self._audit = audit

    async def list_(self, principal: Principal) -> tuple[Budget, ...]:
        """List those that hold for the principal, for administrators all of the organisation."""
        require(principal, Action.READ_SESSIONS)
        return await self._store.list_(principal)

    async def seen(self, principal: Principal) -> tuple[Budget, ...]:
        """List the same for whoever has just changed one: nothing without the right to see them."""
        may_see = refusal(principal, Action.READ_SESSIONS) is None
        return await self._store.list_(principal) if may_see else ()

    async def list_as_operator(self, operator: Principal, org_id: OrgId) -> tuple[Budget, ...]:
        """List all that hold for an organisation, and those of plans; for operators with database access only.

        Raises:
            NotFoundError: there is no such organisation.
        """
        return await self._store.list_as_operator(operator, org_id)

    async def set(self, principal: Principal, kind: BudgetKind, limit_usd: Decimal) -> UUID:
        """Set a budget of the principal's organisation; one of the same kind gets this limit, and keeps what is spent.

        Raises:
            InvalidRequestError: the limit, the subject or the plan does not fit; nothing is changed.
            NotFoundError: there is no such user or key in the organisation.
            PermissionDeniedError: the principal is not an administrator.
        """
        require(principal, Action.EDIT_ORGANIZATION)
        if kind.plan is not None:
            raise InvalidRequestError(
                "is for the operator of this server, who sets the budgets of plans.", argument="plan"
            )
        kind = await self._checked(kind, limit_usd)
        budget_id = await self._store.set(principal, kind, limit_usd)
        await self._record(principal, principal.org_id, budget_id, _settings(kind, limit_usd))
        return budget_id

    async def set_as_operator(
        self, operator: Principal, org_id: OrgId | None, kind: BudgetKind, limit_usd: Decimal
    ) -> UUID:
        """Set one of any organisation, or with a plan one of all that have it; for operators with database access only.

        Raises:
            InvalidRequestError: the limit, the subject or the plan does not fit; nothing is changed.
            NotFoundError: there is no such organisation, user or key.
        """
        kind = await self._checked(kind, limit_usd)
        budget_id = await self._store.set_as_operator(operator, None if kind.plan else org_id, kind, limit_usd)
        await self._record(operator, org_id or operator.org_id, budget_id, _settings(kind, limit_usd))
        return budget_id

    async def remove(self, principal: Principal, budget_id: str) -> None:
        """Remove a budget that an administrator has set; turns that run keep nothing of it.

        Raises:
            NotFoundError: there is no such budget, or the operator has set it.
            PermissionDeniedError: the principal is not an administrator.
        """
        require(principal, Action.EDIT_ORGANIZATION)
        await self._store.remove(principal, id_ := parse_id(budget_id, "budget_id"))
        await self._record(principal, principal.org_id, id_, "removed")

    async def remove_as_operator(self, operator: Principal, budget_id: str) -> None:
        """Remove any budget; for operators with database access only."""
        org_id = await self._store.remove_as_operator(operator, id_ := parse_id(budget_id, "budget_id"))
        await self._record(operator, org_id or operator.org_id, id_, "removed")

    async def plan_of(self, operator: Principal, org_id: OrgId) -> str | None:
        """Return of which plan an organisation is, None for none; for operators with database access only.

        Raises:
            NotFoundError: there is no such organisation.
        """
        return await self._store.plan_of(operator, org_id)

    async def set_plan(self, operator: Principal, org_id: OrgId, plan: str | None) -> None:
        """Say of which plan an organisation is, None for none; for operators with database access only."""
        if plan is not None:
            check_text(plan, "plan", MAX_NAME)
        await self._store.set_plan(operator, org_id, plan)
        await self._record(operator, org_id, None, f"plan {plan or 'none'}")

    async def _checked(self, kind: BudgetKind, limit_usd: Decimal) -> BudgetKind:
        check_amount(limit_usd, "limit_usd")
        if kind.plan is not None:
            check_text(kind.plan, "plan", MAX_NAME)
            if kind.scope not in _OF_PLANS:
                raise InvalidRequestError(
                    f"must be {BudgetScope.ORGANIZATION} or {BudgetScope.MEMBER} for a plan.", argument="scope"
                )
        if kind.scope not in _WITH_SUBJECT:
            if kind.subject:
                raise InvalidRequestError(
                    f"is for another scope; a budget of each {kind.scope} has none.", argument="subject"
                )
            return kind
        if not kind.subject:
            raise InvalidRequestError(f"must say which {kind.scope}.", argument="subject")
        if kind.scope in _WITH_ID:
            return replace(kind, subject=str(parse_id(kind.subject, "subject")))
        # Another process on this database may declare an agent that this one does not.
        rows = [row.name for row in await self._catalogue.undeclared() if not row.removed]
        names = {*(entry.name for entry in await self._catalogue.entries()), *rows}
        if kind.subject not in names:
            raise InvalidRequestError(
                f"must be the name of an agent; there are: {listed(sorted(names))}.", argument="subject"
            )
        return kind

    async def _record(self, principal: Principal, org_id: OrgId, budget_id: UUID | None, settings: str) -> None:
        target = (
            AuditTarget("organization", str(org_id)) if budget_id is None else AuditTarget("budget", str(budget_id))
        )
        await self._audit.record(
            principal,
            AuditAction.ORGANIZATION_CHANGED,
            target=target,
            details=AuditDetails(settings=settings),
            whose=EventOwner(org_id, principal.user_id),
        )


def _settings(kind: BudgetKind, limit_usd: Decimal) -> str:
    parts = (
        f"plan {kind.plan}" if kind.plan else "",
        kind.scope,
        kind.subject,
        kind.period,
        "hard" if kind.hard else "soft",
    )
    return f"budget {' '.join(part for part in parts if part)}: {limit_usd} USD"
