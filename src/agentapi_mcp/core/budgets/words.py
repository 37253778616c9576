"""Budgets in words, for errors and answers."""

from decimal import Decimal

from agentapi_mcp.core.budgets.models import BudgetPeriod, BudgetScope

_PERIODS = {BudgetPeriod.DAY: "daily budget", BudgetPeriod.MONTH: "monthly budget", BudgetPeriod.TOTAL: "budget"}
_OWNERS = {
    BudgetScope.ORGANIZATION: "your organisation's {}",
    BudgetScope.MEMBER: "your {}",
    BudgetScope.USER: "your {}",
    BudgetScope.AGENT: "this agent's {}",
    BudgetScope.KEY: "this key's {}",
}
_LEAST_DIGITS = Decimal("0.01")


def name_budget(scope: str, period: str) -> str:
    """Name a budget as the caller of a turn knows it; one of a later version of the program is just a budget."""
    if scope not in set(BudgetScope) or period not in set(BudgetPeriod):
        return "a budget"
    return _OWNERS[BudgetScope(scope)].format(_PERIODS[BudgetPeriod(period)])


def dollars(amount: Decimal) -> str:
    """Write an amount: two digits at least, and as many as it has."""
    digits = amount if amount.as_tuple().exponent == 0 else amount.normalize()
    exponent = digits.as_tuple().exponent
    short = digits.quantize(_LEAST_DIGITS) if isinstance(exponent, int) and exponent > -2 else digits  # noqa: PLR2004  # cents
    return f"{'-' if short < 0 else ''}${abs(short):,f}"


def when_renewed(renews_at: str | None) -> str:
    """Say when the next period begins."""
    return "it does not renew" if renews_at is None else f"it renews at {renews_at[:10]} 00:00 UTC"
