"""Budgets as results of tools."""

from collections.abc import Sequence

from mcp_types import CallToolResult

from agentapi_mcp.core.budgets.models import Budget
from agentapi_mcp.edges.mcp.tools.answers import answer
from agentapi_mcp.presentation.budgets import budget_line, budget_out
from agentapi_mcp.presentation.models import BudgetsOut


def budgets_answer(found: Sequence[Budget]) -> CallToolResult:
    """Tell budgets in lines and in fields."""
    lines = [f"- {budget_line(budget)}" for budget in found]
    return answer("\n".join(lines) or "No budgets.", BudgetsOut(budgets=list(map(budget_out, found))))
