"""Budgets as JSON and in words."""

from __future__ import annotations

from decimal import Decimal

from agentapi_mcp.base.errors import sentences
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.core.budgets.models import Budget, BudgetScope, BudgetState, Estimate
from agentapi_mcp.core.budgets.words import dollars, name_budget, when_renewed

TYPE_CHECKING = False  # type checkers take it for true; words alone need no models, which are slow to import
if TYPE_CHECKING:
    from agentapi_mcp.presentation import models
else:
    models = LazyModule("agentapi_mcp.presentation.models")

_SCOPES = {BudgetScope.ORGANIZATION: "organization", BudgetScope.MEMBER: "each member"}


def budget_out(budget: Budget) -> models.BudgetOut:
    """Serialize a budget."""
    kind = budget.kind
    return models.BudgetOut(
        id=str(budget.id),
        plan=kind.plan,
        scope=str(kind.scope),
        subject=kind.subject or None,
        period=str(kind.period),
        hard=kind.hard,
        limit_usd=float(budget.limit_usd),
        spent_usd=float(budget.spent_usd),
        reserved_usd=float(budget.reserved_usd),
        left_usd=float(budget.left_usd),
        unpriced_turns=budget.unpriced,
        renews_at=budget.renews_at,
        set_by=set_by(budget),
    )


def whose_budget(budget: Budget) -> str:
    """Say for whom a budget holds."""
    kind = budget.kind
    whose = _SCOPES.get(kind.scope) or f"{kind.scope} {kind.subject}"
    return whose if kind.plan is None else f"{whose}, plan {kind.plan}"


def set_by(budget: Budget) -> str:
    """Say who has set a budget, and so can change it."""
    return "operator" if budget.by_operator else "administrator"


def budget_line(budget: Budget) -> str:
    """Describe a budget in one line."""
    kind, held = budget.kind, budget.reserved_usd
    parts = [
        f"{kind.period} {_plain(budget.limit_usd)} USD",
        "hard" if kind.hard else "soft",
        f"spent {_plain(budget.spent_usd)}",
        f"reserved {_plain(held)}" if held else "",
        f"left {_plain(budget.left_usd)}",
        f"unpriced turns {budget.unpriced}" if budget.unpriced else "",
        f"set by {set_by(budget)}",
    ]
    return f"{whose_budget(budget)}: {', '.join(part for part in parts if part)} (id {budget.id})"


def _plain(amount: Decimal) -> str:
    """Write an amount as JSON does, where its fields have it again."""
    return f"{float(amount):.9f}".rstrip("0").rstrip(".")


def left_of(budget: BudgetState) -> str:
    """Say in a bill what is left of its tightest budget."""
    return f"{dollars(budget.left_usd)} left of {name_budget(budget.scope, budget.period)}"


def left_until(budget: BudgetState) -> str:
    """Say in a sentence what is left of a budget, and when it renews."""
    return f"{left_of(budget)}; {when_renewed(budget.renews_at)}."


def budget_warning(budget: BudgetState | None) -> str:
    """Warn of a soft budget that is used up; of a hard one the refusal says so."""
    spent = None if budget is None else budget.exceeded or budget
    if spent is None or spent.hard or spent.left_usd > 0:
        return ""
    name = name_budget(spent.scope, spent.period)
    over = f"exceeded by {dollars(-spent.left_usd)}" if spent.left_usd < 0 else "used up"
    return f"{name[:1].upper()}{name[1:]} ({dollars(spent.limit_usd)}) is {over}; {when_renewed(spent.renews_at)}."


def left_and_used_up(budget: BudgetState) -> list[str]:
    """Say what is left of a budget, and which soft one is used up: the warning alone where that is the same."""
    warning = budget_warning(budget)
    if not warning:
        return [left_until(budget)]
    return [warning] if budget.exceeded is None else [left_until(budget), warning]


def describe_estimate(estimate: Estimate, agent: str, most: Decimal | None) -> str:
    """Say what a message to an agent may cost, and whether it would be refused."""
    cost, budget = estimate.cost_usd, estimate.budget
    parts = [
        f"What this message to {agent} may cost is not known beforehand; while it runs, "
        f"{dollars(estimate.reserved_usd)} of its budgets would be reserved."
        if cost is None
        else f"This message to {agent} may cost up to about {dollars(cost)}."
    ]
    if budget is not None:
        parts += left_and_used_up(budget)
    return sentences(*parts, refusal_of(estimate, most), "Nothing was asked.")


def refusal_of(estimate: Estimate, most: Decimal | None) -> str:
    """Say why a message would be refused, empty if it would not; `most` is what its caller allows."""
    cost = estimate.cost_usd
    if most is not None and cost is None:
        return f"Nobody can say that it costs no more than the {dollars(most)} allowed: it would be refused."
    if most is not None and cost is not None and cost > most:
        return f"It may cost more than the {dollars(most)} allowed: it would be refused."
    return "The budget has no room for it: it would be refused." if estimate.refused else ""
