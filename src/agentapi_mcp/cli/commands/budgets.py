"""The commands for budgets, for whoever has the database: the operator."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

import click

from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.found_keys import key_id
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.ids import BUDGET, find_id, whole_id
from agentapi_mcp.cli.members import member_id
from agentapi_mcp.cli.options import Dollars, json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.budgets.models import Budget, BudgetKind, BudgetPeriod, BudgetScope
from agentapi_mcp.core.budgets.words import dollars

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import budgets as presented
    from agentapi_mcp.settings import Settings
else:
    presented = LazyModule("agentapi_mcp.presentation.budgets")

COLUMNS = ("WHOSE", "PERIOD", "KIND", "LIMIT", "SPENT", "RESERVED", "LEFT", "RENEWS", "SET BY", "ID")
_org_option = click.option(
    "--org", "org_id", type=click.UUID, metavar="ORG_ID", help="Of this organisation, and not of yours."
)


@click.group(cls=CommandGroup)
def budgets() -> None:
    """See and set what may be spent."""


@budgets.command("list")
@_org_option
@json_option
def budgets_list(org_id: UUID | None, *, as_json: bool) -> None:
    """List the budgets of your organisation and of plans, with what is left of them."""

    async def list_(services: Services, _settings: Settings) -> None:
        target = _target(services, org_id)
        found = await services.budgets.list_as_operator(services.principal, target)
        its_plan = await services.budgets.plan_of(services.principal, target)
        if as_json:
            print_json({"plan": its_plan, "budgets": [presented.budget_out(budget).model_dump() for budget in found]})
            return
        table(COLUMNS, [budget_cells(budget) for budget in found])
        if its_plan is not None:
            print_err(f"The organisation is of the plan {its_plan}: budgets of other plans do not hold for it.")
        elif any(budget.kind.plan is not None for budget in found):
            print_err("The organisation is of no plan: budgets of plans do not hold for it.")
        if not found:
            print_err("There is no budget: `agentapi-mcp budgets set 50` sets one of 50 US dollars a month.")
        unknown = sum(budget.unpriced for budget in found)
        if unknown:
            print_err("SPENT has, for turns of unknown cost, what was reserved for them.")

    run(list_)


# A negative number is no option, and is refused with what is right.
@budgets.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("limit", metavar="DOLLARS", type=Dollars())
@click.option("--member", "each_member", is_flag=True, help="For each member of the organisation.")
@click.option("--user", metavar="ID|EMAIL", help="For this member alone.")
@click.option("--agent", metavar="NAME", help="For all turns of this agent.")
@click.option("--key", metavar="ID|NAME", help="For all turns that this stored API key pays.")
@click.option("--plan", metavar="NAME", help="For every organisation of this plan, or with --member its members.")
@click.option("--period", type=click.Choice([each.value for each in BudgetPeriod]), default="month", show_default=True)
@click.option("--soft", is_flag=True, help="Warn in answers, and refuse nothing.")
@_org_option
@json_option
def budgets_set(limit: Decimal, org_id: UUID | None, *, as_json: bool, **values: object) -> None:
    """Bound what may be spent in each period to DOLLARS.

    The organisation as a whole, unless an option says for whom. Periods are those of UTC. One of the same kind gets the
    new limit, and keeps what is spent.
    """
    # A blank, such as a script's empty variable, is refused where it is looked for.
    kinds = {name: values[name] for name in _SCOPES if values[name] not in {None, False}}
    if len(kinds) > 1:
        raise click.UsageError("Say one of --member, --user, --agent and --key.")
    if values["plan"] is not None and kinds.keys() - {"each_member"}:
        raise click.UsageError(
            "A plan's budget is an organisation's, or each member's: leave --user, --agent, --key out."
        )

    async def set_(services: Services, _settings: Settings) -> None:
        kind = BudgetKind(
            scope=next((_SCOPES[name] for name in kinds), BudgetScope.ORGANIZATION),
            subject=await _subject(services, kinds),
            plan=None if values["plan"] is None else str(values["plan"]),
            period=BudgetPeriod(str(values["period"])),
            hard=not values["soft"],
        )
        target = _target(services, org_id)
        budget_id = await services.budgets.set_as_operator(services.principal, target, kind, limit)
        found = await services.budgets.list_as_operator(services.principal, target)
        _print_one([budget for budget in found if budget.id == budget_id], as_json=as_json)

    run(set_)


@budgets.command("remove")
@click.argument("budget_id", metavar="ID")
@_org_option
@json_option
def budgets_remove(budget_id: str, org_id: UUID | None, *, as_json: bool) -> None:
    """Remove a budget, and what was counted of it."""

    async def remove(services: Services, _settings: Settings) -> None:
        there = await services.budgets.list_as_operator(services.principal, _target(services, org_id))
        found = whole_id(budget_id) or find_id([str(budget.id) for budget in there], budget_id, BUDGET)
        await services.budgets.remove_as_operator(services.principal, found)
        if as_json:
            print_json({"removed": found})
        else:
            print_err("Removed.")

    run(remove)


@budgets.command("plan")
@click.argument("name", required=False)
@click.option("--none", "is_removed", is_flag=True, help="Of no plan any more.")
@_org_option
@json_option
def budgets_plan(name: str | None, org_id: UUID | None, *, is_removed: bool, as_json: bool) -> None:
    """Say of which plan your organisation is: the budgets of that plan hold from the next message on."""
    if (name is None) != is_removed:
        raise click.UsageError("Say which plan, or --none for none.")

    async def plan(services: Services, _settings: Settings) -> None:
        target = _target(services, org_id)
        await services.budgets.set_plan(services.principal, target, name)
        if as_json:
            print_json({"org_id": str(target), "plan": name})
            return
        print_err("Of no plan now." if name is None else f"Of the plan {name} now.")
        found = await services.budgets.list_as_operator(services.principal, target)
        if name is not None and all(budget.kind.plan != name for budget in found):
            print_err("It has no budgets: `agentapi-mcp budgets set DOLLARS --plan NAME` sets one.")

    run(plan)


_SCOPES = {
    "each_member": BudgetScope.MEMBER,
    "user": BudgetScope.USER,
    "agent": BudgetScope.AGENT,
    "key": BudgetScope.KEY,
}


async def _subject(services: Services, kinds: dict[str, object]) -> str:
    if "user" in kinds:
        return str(await member_id(services, str(kinds["user"])))
    return await key_id(services, str(kinds["key"])) if "key" in kinds else str(kinds.get("agent", ""))


def _target(services: Services, org_id: UUID | None) -> OrgId:
    return services.principal.org_id if org_id is None else OrgId(org_id)


def budget_cells(budget: Budget) -> Sequence[object]:
    """Return the cells of a budget in the list; an id is short in a terminal, which the table would not fit."""
    kind = budget.kind
    has_id = kind.scope in {BudgetScope.USER, BudgetScope.KEY}
    return (
        (kind.scope, UUID(kind.subject)) if has_id else presented.whose_budget(budget),
        budget.kind.period,
        "hard" if budget.kind.hard else "soft",
        *(dollars(amount) for amount in (budget.limit_usd, budget.spent_usd, budget.reserved_usd, budget.left_usd)),
        "never" if budget.renews_at is None else budget.renews_at[:10],
        presented.set_by(budget),
        budget.id,
    )


def _print_one(found: Sequence[Budget], *, as_json: bool) -> None:
    for budget in found:
        if as_json:
            print_json(presented.budget_out(budget).model_dump())
        else:
            print_err(f"{presented.budget_line(budget)}.")
