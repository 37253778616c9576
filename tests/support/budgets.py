"""Organisations with budgets, whose turns begin and end as a store is told."""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import asyncpg

from agentapi_mcp.base.ids import AgentId, OrgId, SessionId, UserId, new_id
from agentapi_mcp.core.backends.events import Usage
from agentapi_mcp.core.budgets.models import NANOS, BudgetKind, BudgetScope, ExpectedRates, Expense
from agentapi_mcp.core.conversations.models import AcceptedTurn, Turn, TurnCost, TurnStatus
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.stores.postgres.budgets import PostgresBudgets
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.support.new_turns import ending, new_turn

OWNER = UUID(int=5)
CENT = NANOS // 100


def rates(input_price: Decimal | None, output_nanos: int | None) -> tuple[ExpectedRates]:
    """Return the rates of a model whose price is the same however long its input is."""
    return (ExpectedRates(input_price=input_price, output_nanos=output_nanos),)


# Ten cents for each turn.
EXPENSE = Expense(rates=rates(Decimal(0), 10 * CENT))
ORGANIZATION, MEMBER = BudgetKind(), BudgetKind(scope=BudgetScope.MEMBER)
# Makes a period `$2` slices, and divides what is left of it at random: as turns that would wait for each other do.
# Where nothing is left, they are refused, and nothing is divided.
_DIVIDE: LiteralString = """
INSERT INTO agentapi.budget_periods (budget_id, org_id, holder, starts, slice, limit_nanos)
SELECT p.budget_id, p.org_id, p.holder, p.starts, n, p.limit_nanos
  FROM agentapi.budget_periods p, generate_series(1, $2 - 1) n WHERE p.budget_id = $1 AND p.slice = 0
ON CONFLICT DO NOTHING
"""
_SHARE: LiteralString = """
WITH points AS (
    SELECT p.id, p.org_id, p.holder, p.starts, p.slice, p.spent_nanos + p.reserved_nanos AS used,
           hashint8extended(p.slice, $2) & 255 AS weight FROM agentapi.budget_periods p WHERE p.budget_id = $1
), left_of AS (
    SELECT w.org_id, w.holder, w.starts, sum(w.weight) + 1 AS weights,
           (SELECT b.limit_nanos FROM agentapi.budgets b WHERE b.id = $1) - sum(w.used) AS nanos
      FROM points w GROUP BY 1, 2, 3
)
UPDATE agentapi.budget_periods p SET share_nanos = w.used + div(l.nanos * w.weight, l.weights),
       limit_nanos = (SELECT b.limit_nanos FROM agentapi.budgets b WHERE b.id = $1)
  FROM points w JOIN left_of l USING (org_id, holder, starts) WHERE p.id = w.id AND l.nanos > 0
"""
# What must be so at any time: the running turns hold what is reserved, and no hard limit is exceeded by that alone.
_HELD: LiteralString = """
SELECT p.reserved_nanos AS reserved,
       (SELECT coalesce(sum(t.reserved_nanos), 0) FROM agentapi.turns t
         WHERE p.id = ANY (t.budget_periods) AND t.status IN ('running', 'input_required')) AS held
  FROM agentapi.budget_periods p WHERE p.org_id = ANY($1::uuid[])
"""
_SHARED: LiteralString = """
SELECT p.budget_id FROM agentapi.budget_periods p JOIN agentapi.budgets b ON b.id = p.budget_id AND b.hard
 GROUP BY p.budget_id, p.org_id, p.holder, p.starts HAVING sum(p.share_nanos) > max(p.limit_nanos)
"""


@dataclass(frozen=True)
class BudgetScene:
    """An organisation with two members and an administrator, and one with nobody who is in the first."""

    database: Database
    agent: AgentId
    ann: Principal
    abe: Principal
    chief: Principal
    bo: Principal

    async def set(self, kind: BudgetKind, dollars: str, who: Principal | None = None) -> UUID:
        """Set a budget as the operator, of Ann's organisation or of a plan."""
        org = None if kind.plan else (who or self.ann).org_id
        return await PostgresBudgets(self.database).set_as_operator(self.chief, org, kind, Decimal(dollars))

    async def begin(
        self,
        who: Principal,
        expense: Expense = EXPENSE,
        session: SessionId | None = None,
        **more: Any,  # noqa: ANN401  # fields
    ) -> Turn:
        """Begin a turn."""
        new = replace(new_turn(self.agent, f"hello {new_id()}", session), lease_owner=OWNER, expense=expense, **more)
        accepted = await PostgresTurns(self.database).begin(who, new)
        assert isinstance(accepted, AcceptedTurn)
        return accepted.turn

    async def end(self, who: Principal, turn: Turn, nanos: int | None, **how: Any) -> Turn | None:  # noqa: ANN401  # fields of a turn
        """End a turn with a cost, None for one that nobody knows; None where it has been ended."""
        cost = None if nanos is None else Decimal(nanos) / NANOS
        bill = TurnCost(usage=Usage(input_tokens=1, output_tokens=1, cost_usd=cost))
        said = replace(turn, **{"status": TurnStatus.COMPLETED, "reply": "yes", "bill": bill, **how})
        return await PostgresTurns(self.database).finish(who, said, ending(OWNER))

    async def read(self, sql: LiteralString, *values: object) -> list[dict[str, Any]]:
        """Read whatever there is."""
        async with self.database.as_system("test") as connection:
            return [dict(row) for row in await connection.fetch(sql, *values)]

    async def run(self, sql: LiteralString, *values: object) -> None:
        """Change whatever there is."""
        async with self.database.as_system("test") as connection:
            await connection.execute(sql, *values)

    async def sums(self, budget: UUID) -> list[tuple[int, int, int]]:
        """Return what is spent, what is reserved, and of how many turns the cost is unknown, for each period."""
        await self.check()
        rows = await self.read(
            "SELECT sum(spent_nanos) AS spent_nanos, sum(reserved_nanos) AS reserved_nanos, sum(unpriced) AS unpriced "
            "FROM agentapi.budget_periods WHERE budget_id = $1 GROUP BY org_id, holder, starts ORDER BY starts, 1",
            budget,
        )
        return [(row["spent_nanos"], row["reserved_nanos"], row["unpriced"]) for row in rows]

    async def check(self) -> None:
        """Check that nothing is reserved but what running turns hold, and no more is shared than there is."""
        for row in await self.read(_HELD, [self.ann.org_id, self.bo.org_id]):
            assert row["reserved"] == row["held"]
        assert await self.read(_SHARED) == []


async def divide(owner_url: str, budget: UUID, slices: int, seed: int) -> None:
    """Divide all periods of a budget, with a login that may write them; what is left is shared by the seed."""
    owner = await asyncpg.connect(owner_url)
    try:
        await owner.execute(_DIVIDE, budget, slices)
        await owner.execute(_SHARE, budget, seed)
    finally:
        await owner.close()


async def budget_scene(database: Database) -> BudgetScene:
    """Make the organisations."""
    one, two = OrgId(new_id()), OrgId(new_id())
    ann, abe, chief, bo = (UserId(new_id()) for _ in range(4))
    agent = AgentId(new_id())
    async with database.as_system("test") as connection:
        for org in (one, two):
            await connection.execute("INSERT INTO public.organizations (id, name) VALUES ($1, 'o')", org)
        for user, org, role in ((ann, one, "member"), (abe, one, "member"), (chief, one, "admin"), (bo, two, "owner")):
            await connection.execute("INSERT INTO public.profiles (id) VALUES ($1)", user)
            await connection.execute(
                "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, $3)",
                org,
                user,
                role,
            )
        await connection.execute(
            "INSERT INTO public.agents (id, name, type) VALUES ($1, $2, 'custom')", agent, f"b-{agent}"
        )
    return BudgetScene(
        database,
        agent,
        Principal(ann, one, Role.MEMBER),
        Principal(abe, one, Role.MEMBER),
        Principal(chief, one, Role.ADMIN),
        Principal(bo, two, Role.OWNER),
    )
