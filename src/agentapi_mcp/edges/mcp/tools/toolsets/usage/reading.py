"""The tools that say what was used, what it cost, and what is left."""

from mcp_types import CallToolResult

from agentapi_mcp.base.text import quoted
from agentapi_mcp.core.identity.principals import Action
from agentapi_mcp.core.usage.models import MOST_GROUPS, UsageGroup, UsageReport, UsageRow
from agentapi_mcp.edges.mcp.tools.answers import answer
from agentapi_mcp.edges.mcp.tools.arguments import Argument
from agentapi_mcp.edges.mcp.tools.budget_results import budgets_answer
from agentapi_mcp.edges.mcp.tools.declarations import ToolCall, Toolset, ToolSpec
from agentapi_mcp.presentation.models import BudgetsOut
from agentapi_mcp.presentation.usage import UsageOut, usage_out
from agentapi_mcp.presentation.usage_words import left_out_words, name_of, sums_words

TOOLSET = Toolset()

_ORGANIZATION = "organization"
_TIME = "today, month, 7d, 2026-11, 2026-11-30 or a time; UTC"


@TOOLSET.tool(
    ToolSpec(
        name="get_usage",
        title="Get usage",
        about="Tell what was used in a period and what it cost: turns, tokens, dollars, errors, latency; or by group.",
        arguments=(
            Argument(name="by", about="Groups; member: the organisation's", one_of=tuple(UsageGroup)),
            Argument(name="since", about=f"{_TIME}; default: 30d"),
            Argument(name="until", about="Likewise, with that day or month; default: now"),
            Argument(name="whose", about="Default: own", one_of=("own", _ORGANIZATION)),
            Argument(name="limit", kind="integer", about="Most groups; default: 100", least=1, most=MOST_GROUPS),
        ),
        answers=UsageOut,
        action=Action.READ_SESSIONS,
    )
)
async def get_usage(call: ToolCall) -> CallToolResult:
    """Add up a period."""
    caller = await call.identify()
    by, limit = call.given.find_text("by"), call.given.find_integer("limit")
    report = await caller.services.usage.report(
        caller.principal,
        caller.services.usage.query(
            since=call.given.find_text("since"),
            until=call.given.find_text("until"),
            by=None if by is None else UsageGroup(by),
            whole=call.given.find_text("whose") == _ORGANIZATION,
            limit=limit,
        ),
    )
    out = usage_out(report)
    lines = [f"{out.whose.capitalize()}, since {out.since} until {out.until}: {sums_words(report.total)}."]
    lines += [f"- {_named(row, report)}: {sums_words(row.sums)}" for row in report.rows]
    return answer("\n".join(lines), out, remark=left_out_words(report))


def _named(row: UsageRow, report: UsageReport) -> str:
    # Users say what models and providers elsewhere are called, and others read it: it must not pass for another line.
    name = row.label or row.key
    return quoted(name) if name else name_of(row, report.by)


@TOOLSET.tool(
    ToolSpec(
        name="list_budgets",
        title="List budgets",
        about="List the budgets that hold for you, for administrators all: limit, spent, what is left.",
        arguments=(),
        answers=BudgetsOut,
        action=Action.READ_SESSIONS,
    )
)
async def list_budgets(call: ToolCall) -> CallToolResult:
    """List the caller's budgets."""
    caller = await call.identify()
    return budgets_answer(await caller.services.budgets.list_(caller.principal))
