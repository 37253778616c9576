"""Budgets in Postgres (0021_budgets.sql)."""

import json
from decimal import Decimal
from typing import LiteralString
from uuid import UUID

import asyncpg
from typing_extensions import override

from agentapi_mcp.base.errors import BudgetExceededError, NotFoundError
from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.base.json_records import from_json, to_json
from agentapi_mcp.core.budgets.models import (
    NANOS,
    Budget,
    BudgetKind,
    BudgetLeft,
    BudgetPeriod,
    BudgetScope,
    BudgetState,
    Estimate,
    Expense,
)
from agentapi_mcp.core.budgets.ports import BudgetStore
from agentapi_mcp.core.budgets.words import dollars, name_budget, when_renewed
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Database, Row

# SQLSTATE of a turn that a budget, or its caller's own amount, refuses.
_OVER_BUDGET = "AA004"
# With the sums of all slices of the period that runs; of a member's budget, that of the caller.
_BUDGETS: LiteralString = """
SELECT b.id, b.org_id, b.plan, b.scope, b.subject, b.period, b.hard, b.limit_nanos, b.by_operator,
       p.spent_nanos, p.reserved_nanos, p.unpriced, agentapi.period_end(b.period, s.starts) AS renews_at
  FROM agentapi.budgets b
 CROSS JOIN LATERAL (SELECT agentapi.period_start(b.period, clock_timestamp()) AS starts) AS s
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(o.spent_nanos), 0)::bigint AS spent_nanos,
              coalesce(sum(o.reserved_nanos), 0)::bigint AS reserved_nanos, coalesce(sum(o.unpriced), 0) AS unpriced
         FROM agentapi.budget_periods o
        WHERE o.budget_id = b.id AND o.org_id = $1 AND o.starts = s.starts
          AND o.holder = CASE b.scope WHEN 'member' THEN $2::uuid ELSE $1 END) AS p
"""
_ORDER: LiteralString = " ORDER BY b.plan NULLS FIRST, b.scope, b.subject, b.period, b.hard DESC, b.by_operator DESC"
_OWN: LiteralString = f"""{_BUDGETS}
 WHERE b.org_id = $1 OR b.org_id IS NULL AND b.plan = ANY (agentapi.own_plans()){_ORDER}
"""
_ALL: LiteralString = f"{_BUDGETS} WHERE b.org_id = $1 OR b.org_id IS NULL{_ORDER}"
_PERSON: LiteralString = "SELECT person FROM agentapi.people WHERE user_id = $1"
_USER: LiteralString = """
SELECT m.user_id FROM public.organization_members m WHERE m.organization_id = $1 AND m.user_id = $2
"""
_KEY: LiteralString = "SELECT k.user_id, true AS found FROM agentapi.user_api_keys k WHERE k.org_id = $1 AND k.id = $2"
_INSERT: LiteralString = """
INSERT INTO agentapi.budgets AS b
    (org_id, plan, scope, subject, user_id, key_id, period, hard, limit_nanos, by_operator, set_by)
SELECT $1::uuid, $2, $3, $4, $5::uuid, $6::uuid, $7, $8, $9, $10, $11::uuid
"""
_CHANGED: LiteralString = """
ON CONFLICT ON CONSTRAINT agentapi_budgets_kind
DO UPDATE SET limit_nanos = excluded.limit_nanos, set_by = excluded.set_by, set_at = clock_timestamp()
RETURNING b.id
"""
# The rights are checked here as well, beside the policy, whose refusal would be an error of the store.
_SET: LiteralString = f"""{_INSERT}
 WHERE $1 = ANY (agentapi.own_organization_ids()) AND agentapi.may('organization:edit', '{{admin,owner}}', 'admin')
{_CHANGED}"""
_SET_ANY: LiteralString = f"""{_INSERT}
 WHERE $1 IS NULL OR EXISTS (SELECT FROM public.organizations o WHERE o.id = $1)
{_CHANGED}"""
_PLAN_OF: LiteralString = "SELECT o.settings ->> 'plan' AS plan FROM public.organizations o WHERE o.id = $1"
_PLAN: LiteralString = """
UPDATE public.organizations o
   SET settings = CASE jsonb_typeof(o.settings) WHEN 'object' THEN o.settings ELSE '{}' END - 'plan'
                  || jsonb_strip_nulls(jsonb_build_object('plan', $2::text))
 WHERE o.id = $1
"""
_NO_ORGANIZATION = "There is no such organisation."
_NO_BUDGET = "There is no such budget of yours to remove; `list_budgets` shows who has set which."


class PostgresBudgets(BudgetStore):
    """The budgets of all organisations, and of plans."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def list_(self, principal: Principal) -> tuple[Budget, ...]:
        async with self._database.as_principal(principal) as connection:
            person = await connection.fetchval("SELECT agentapi.own_person()")
            rows = await connection.fetch(_OWN, principal.org_id, person)
        return tuple(map(_budget, rows))

    @override
    async def list_as_operator(self, operator: Principal, org_id: OrgId) -> tuple[Budget, ...]:
        async with self._database.as_system(
            "the operator lists the budgets of an organisation", user=operator.user_id
        ) as connection:
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM public.organizations WHERE id = $1)", org_id):
                raise NotFoundError(_NO_ORGANIZATION)
            person = await connection.fetchval(_PERSON, operator.user_id)
            rows = await connection.fetch(_ALL, org_id, person)
        return tuple(map(_budget, rows))

    @override
    async def set(self, principal: Principal, kind: BudgetKind, limit_usd: Decimal) -> UUID:
        # Members and keys of others are none of what a writer may read.
        user_id = await self._user_of(principal, principal.org_id, kind)
        async with self._database.as_writer(principal) as connection:
            values = _values(kind, limit_usd, user_id)
            return _set_one(
                await connection.fetchval(_SET, principal.org_id, *values, False, principal.user_id)  # noqa: FBT003  # a column
            )

    @override
    async def set_as_operator(
        self, operator: Principal, org_id: OrgId | None, kind: BudgetKind, limit_usd: Decimal
    ) -> UUID:
        user_id = None if org_id is None else await self._user_of(operator, org_id, kind)
        async with self._database.as_system("the operator sets a budget", user=operator.user_id) as connection:
            values = _values(kind, limit_usd, user_id)
            return _set_one(
                await connection.fetchval(_SET_ANY, org_id, *values, True, operator.user_id)  # noqa: FBT003  # a column
            )

    @override
    async def remove(self, principal: Principal, budget_id: UUID) -> None:
        async with self._database.as_writer(principal) as connection:
            done = await connection.execute(
                "DELETE FROM agentapi.budgets WHERE id = $1 AND org_id = $2 AND NOT by_operator",
                budget_id,
                principal.org_id,
            )
        if done == "DELETE 0":
            raise NotFoundError(_NO_BUDGET)

    @override
    async def remove_as_operator(self, operator: Principal, budget_id: UUID) -> OrgId | None:
        async with self._database.as_system("the operator removes a budget", user=operator.user_id) as connection:
            row = await connection.fetchrow("DELETE FROM agentapi.budgets WHERE id = $1 RETURNING org_id", budget_id)
        if row is None:
            raise NotFoundError("There is no such budget.")
        return row["org_id"]

    @override
    async def plan_of(self, operator: Principal, org_id: OrgId) -> str | None:
        async with self._database.as_system(
            "the operator asks for the plan of an organisation", user=operator.user_id
        ) as connection:
            row = await connection.fetchrow(_PLAN_OF, org_id)
        if row is None:
            raise NotFoundError(_NO_ORGANIZATION)
        return row["plan"]

    @override
    async def set_plan(self, operator: Principal, org_id: OrgId, plan: str | None) -> None:
        async with self._database.as_system(
            "the operator sets the plan of an organisation", user=operator.user_id
        ) as connection:
            done = await connection.execute(_PLAN, org_id, plan)
        if done == "UPDATE 0":
            raise NotFoundError(_NO_ORGANIZATION)

    async def _user_of(self, principal: Principal, org_id: OrgId, kind: BudgetKind) -> UUID | None:
        """Return whose budget it is, where it is a user's or of their key; both must be of the organisation."""
        if kind.scope not in {BudgetScope.USER, BudgetScope.KEY}:
            return None
        statement = _USER if kind.scope is BudgetScope.USER else _KEY
        async with self._database.as_system("whose a budget is", user=principal.user_id) as connection:
            row = await connection.fetchrow(statement, org_id, UUID(kind.subject))
        if row is None:
            raise NotFoundError(f"There is no such {kind.scope} in the organisation.")
        return row["user_id"]


def _values(kind: BudgetKind, limit_usd: Decimal, user_id: UUID | None) -> tuple[object, ...]:
    return (
        kind.plan,
        kind.scope,
        kind.subject,
        user_id,
        UUID(kind.subject) if kind.scope is BudgetScope.KEY else None,
        kind.period,
        kind.hard,
        int(limit_usd * NANOS),
    )


def _set_one(budget_id: UUID | None) -> UUID:
    if budget_id is None:
        raise NotFoundError(_NO_ORGANIZATION)
    return budget_id


def _budget(row: Row) -> Budget:
    return Budget(
        id=row["id"],
        org_id=row["org_id"],
        kind=BudgetKind(
            scope=BudgetScope(row["scope"]),
            subject=row["subject"],
            plan=row["plan"],
            period=BudgetPeriod(row["period"]),
            hard=row["hard"],
        ),
        limit_usd=_dollars(row["limit_nanos"]),
        spent_usd=_dollars(row["spent_nanos"]),
        reserved_usd=_dollars(row["reserved_nanos"]),
        unpriced=row["unpriced"],
        renews_at=row["renews_at"],
        by_operator=row["by_operator"],
    )


def expense_claim(expense: Expense) -> dict[str, object]:
    """Return what reserve_budgets reads."""
    claim: dict[str, object] = {
        "bytes": expense.fixed_bytes,
        "history_bytes": expense.history_bytes,
        "unpriced_nanos": expense.unpriced_nanos,
        "rates": [
            [rates.above, None if rates.input_price is None else str(rates.input_price), rates.output_nanos]
            for rates in expense.rates
        ],
    }
    if expense.lender is not None:
        claim["lender"] = expense.lender
    if expense.most_nanos is not None:
        claim["most_nanos"] = expense.most_nanos
    return claim


def budget_refusal(error: BaseException | None, expense: Expense) -> BudgetExceededError | None:
    """Return the refusal of a turn of this expense for what it may cost, where an error of the database is one."""
    if not isinstance(error, asyncpg.PostgresError) or error.sqlstate != _OVER_BUDGET:
        return None
    over = json.loads(str(error))
    needed = None if over["needed_usd"] is None else Decimal(over["needed_usd"])
    details: dict[str, object] = {"needed_usd": None if needed is None else float(needed)}
    if "most_usd" in over:
        most = Decimal(over["most_usd"])
        return BudgetExceededError(_beyond(most, needed), {**details, "max_cost_usd": float(most), "budget": None})
    state, running = from_json(BudgetLeft, over), Decimal(over["running_usd"])
    held = f", {dollars(running)} of it is reserved for turns that run" if running else ""
    raised_by = (
        "the operator of this server (`agentapi-mcp budgets set`)"
        if over["by_operator"]
        else "an administrator of your organisation (`set_budget`)"
    )
    name = name_budget(state.scope, state.period)
    # The database says what it would have reserved, also where nobody knows what the message may cost.
    is_known = any(each.input_price is not None and each.output_nanos is not None for each in expense.rates)
    amount = f"{'may cost' if is_known else 'of unknown cost reserves'} {dollars(needed or Decimal(0))}"
    return BudgetExceededError(
        f"{name[:1].upper()}{name[1:]} ({dollars(state.limit_usd)}) has {dollars(state.left_usd)} left{held}, and this "
        f"message {amount}; {when_renewed(state.renews_at)}. {_way_out(state, running, is_known=is_known)}, or have "
        f"it raised by {raised_by}. Nothing was asked.",
        {
            "needed_usd": details["needed_usd"] if is_known else None,
            "max_cost_usd": None,
            "budget": to_json(state, amount=float),
        },
    )


def _way_out(state: BudgetLeft, running: Decimal, *, is_known: bool) -> str:
    if state.left_usd <= 0 and not running:
        return "It is used up: choose what costs nothing"
    if is_known:
        return "Lower max_tokens, choose a cheaper model"
    return "Pass max_tokens if the model has a price, choose a model with one"


def _beyond(most: Decimal, needed: Decimal | None) -> str:
    if needed is None:
        return (
            f"What this message may cost is not known, so the {dollars(most)} that you allow cannot be kept: pass "
            "max_tokens if the model has a price, choose a model with one, or allow any cost. Nothing was asked."
        )
    return (
        f"This message may cost {dollars(needed)}, more than the {dollars(most)} that you allow: lower max_tokens, "
        "choose a cheaper model, go on in a new session, or allow more. Nothing was asked."
    )


def read_state(fields: dict[str, object] | None) -> BudgetState:
    """Read what budget_state wrote."""
    return from_json(BudgetState, fields or {})


def to_estimate(row: Row) -> Estimate:
    """Convert a row of estimate_turn_1."""
    known = row["estimate_nanos"]
    return Estimate(
        cost_usd=None if known is None else _dollars(known),
        reserved_usd=_dollars(row["reserve_nanos"]),
        budget=None if row["budget"] is None else read_state(json.loads(row["budget"])),
        refused=row["refused"],
    )


def _dollars(nanos: int) -> Decimal:
    return Decimal(nanos) / NANOS
