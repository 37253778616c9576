"""The tools of the toolset `admin`: what an organisation sets, its numbers and its budgets."""

from decimal import Decimal

from mcp_types import CallToolResult

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.text import number_of
from agentapi_mcp.core.budgets.models import BudgetKind, BudgetPeriod, BudgetScope
from agentapi_mcp.core.catalogue.models import Organization
from agentapi_mcp.core.catalogue.policy import NAMES
from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.edges.mcp.tools.answers import answer
from agentapi_mcp.edges.mcp.tools.arguments import Argument
from agentapi_mcp.edges.mcp.tools.budget_results import budgets_answer
from agentapi_mcp.edges.mcp.tools.declarations import ToolCall, Toolset, ToolSpec
from agentapi_mcp.presentation.models import BudgetsOut, OrganizationOut
from agentapi_mcp.presentation.organizations import (
    describe_limits,
    describe_size,
    describe_undeclared,
    describe_usage,
    organization_out,
)

TOOLSET = Toolset()


@TOOLSET.tool(
    ToolSpec(
        name="get_organization",
        title="Get the organisation",
        about="Show your organisation's settings and limits, and how many members, sessions, turns and tokens it has.",
        arguments=(),
        answers=OrganizationOut,
        action=Action.READ_ORGANIZATION,
    )
)
async def get_organization(call: ToolCall) -> CallToolResult:
    """Show the caller's organisation."""
    caller = await call.identify()
    return _shown(await caller.services.organizations.get(caller.principal))


@TOOLSET.tool(
    ToolSpec(
        name="set_organization",
        title="Set up the organisation",
        about="Set defaults for the chats of all members, and which agents and models they may use.",
        arguments=(
            Argument(name="default_agent", about="Who answers where nobody is named", verbatim=True),
            Argument(name="default_model", about="With which model", verbatim=True),
            Argument(name="temperature", kind="number", about="Randomness", least=0, most=2),
            Argument(name="max_tokens", kind="integer", about="Longest answer in tokens", least=1),
            Argument(name="system_prompt", about="Instructions for every turn", verbatim=True),
            Argument(name="allowed_agents", kind="array", about="Only these, by name"),
            Argument(name="allowed_models", kind="array", about="Only these: a model's name, or agent/model"),
            Argument(name="unset", kind="array", about=f"Settings to take back, of: {', '.join(NAMES)}"),
        ),
        answers=OrganizationOut,
        action=Action.EDIT_ORGANIZATION,
        reads_only=False,
        destructive=True,
    )
)
async def set_organization(call: ToolCall) -> CallToolResult:
    """Change its settings."""
    caller = await call.identify()
    changes: dict[str, object] = {name: value for name, value in call.given.values.items() if name != "unset"}
    for name in call.given.find_texts("unset") or ():
        if name in changes:
            raise InvalidRequestError(f"names {name!r}, which you also set; do one of the two.", argument="unset")
        changes[name] = None
    return _shown(await caller.services.organizations.change(caller.principal, changes))


_BUDGET = (
    Argument(name="scope", about="Default: organization. member: each member", one_of=tuple(map(str, BudgetScope))),
    Argument(name="subject", about="Which user or key, by id, or which agent", verbatim=True),
    Argument(name="period", about="Default: month, in UTC", one_of=tuple(map(str, BudgetPeriod))),
    Argument(name="soft", kind="boolean", about="Warn, and refuse nothing"),
)


@TOOLSET.tool(
    ToolSpec(
        name="set_budget",
        title="Set a budget",
        about="Set what may be spent. One of the same scope, subject, period and kind gets the new limit.",
        arguments=(
            Argument(name="limit_usd", kind="number", about="US dollars", required=True, least=0),
            *_BUDGET,
        ),
        answers=BudgetsOut,
        action=Action.EDIT_ORGANIZATION,
        reads_only=False,
    )
)
async def set_budget(call: ToolCall) -> CallToolResult:
    """Set a budget of the caller's organisation."""
    caller, given = await call.identify(), call.given
    kind = BudgetKind(
        scope=BudgetScope(given.find_text("scope") or BudgetScope.ORGANIZATION),
        subject=given.find_text("subject") or "",
        period=BudgetPeriod(given.find_text("period") or BudgetPeriod.MONTH),
        hard=not given.flag("soft"),
    )
    limit = Decimal(str(given.find_number("limit_usd")))
    await caller.services.budgets.set(caller.principal, kind, limit)
    return budgets_answer(await caller.services.budgets.seen(caller.principal))


@TOOLSET.tool(
    ToolSpec(
        name="remove_budget",
        title="Remove a budget",
        about="Remove a budget that an administrator has set.",
        arguments=(Argument(name="budget_id", about="From list_budgets", required=True),),
        answers=BudgetsOut,
        action=Action.EDIT_ORGANIZATION,
        reads_only=False,
        destructive=True,
    )
)
async def remove_budget(call: ToolCall) -> CallToolResult:
    """Remove a budget of the caller's organisation."""
    caller = await call.identify()
    await caller.services.budgets.remove(caller.principal, call.given.text("budget_id"))
    return budgets_answer(await caller.services.budgets.seen(caller.principal))


def _shown(organization: Organization) -> CallToolResult:
    out = organization_out(organization)
    numbers = out.numbers
    lines = [f"{out.name}: {describe_size(numbers)}."]
    turns = number_of(sum(numbers.turns.values()), "turn")
    lines.append(f"Last {number_of(numbers.days, 'day')}: {turns}, {describe_usage(numbers)}.")
    values = {name: value for name, value in out.settings.model_dump().items() if value is not None}
    lines += [f"- {name}: {value}" for name, value in values.items()] or ["No settings: every agent, its own defaults."]
    lines += [f"- {remark}" for remark in describe_undeclared(out.undeclared_agents)]
    lines += [f"- {limit}" for limit in describe_limits(out.limits)]
    return answer("\n".join(lines), out)
