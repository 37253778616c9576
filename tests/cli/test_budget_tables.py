"""Budgets in a terminal."""

from decimal import Decimal
from uuid import UUID

import pytest

from agentapi_mcp.cli.commands.budgets import COLUMNS, budget_cells
from agentapi_mcp.cli.outputs import aligned
from agentapi_mcp.core.budgets.models import Budget, BudgetKind, BudgetScope

ID = "01980000-0000-7000-8000-0123456789ab"


@pytest.mark.parametrize(
    ("kind", "whose"),
    [
        (BudgetKind(scope=BudgetScope.USER, subject=ID), "user 456789ab"),
        (BudgetKind(scope=BudgetScope.KEY, subject=ID), "key 456789ab"),
        (BudgetKind(scope=BudgetScope.AGENT, subject="droid"), "agent droid"),
        (BudgetKind(scope=BudgetScope.MEMBER, plan="free"), "each member, plan free"),
    ],
)
def test_a_budget_is_a_line_of_a_terminal(kind: BudgetKind, whose: str) -> None:
    budget = Budget(
        id=UUID(ID),
        org_id=None,
        kind=kind,
        limit_usd=Decimal(50),
        spent_usd=Decimal("0.173659"),
        reserved_usd=Decimal(0),
        unpriced=0,
        renews_at="2026-12-01T00:00:00Z",
        by_operator=True,
    )
    [_, line] = aligned(COLUMNS, [budget_cells(budget)], 110).splitlines()
    assert (line.startswith(f"{whose}  month"), line.endswith(" operator  456789ab")) == (True, True)
