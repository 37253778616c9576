"""Budgets against a model of whole numbers: whatever begins, ends, dies, is deleted or billed late, in any order."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentapi_mcp.base.errors import BudgetExceededError
from agentapi_mcp.core.budgets.models import BudgetKind, BudgetPeriod, BudgetScope, Expense
from agentapi_mcp.core.conversations.models import SettlingRule, Turn
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.budgets import PostgresBudgets
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.support.budgets import OWNER, BudgetScene, budget_scene, divide

BUDGETS = [
    BudgetKind(scope=scope, period=period, hard=hard, plan=plan)
    for scope in (BudgetScope.ORGANIZATION, BudgetScope.MEMBER)
    for period in BudgetPeriod
    for hard in (True, False)
    for plan in (None, "free")
]
NANOS = st.integers(0, 40)
STEPS = st.one_of(
    st.tuples(st.just("begin"), st.integers(0, 1), NANOS),
    st.tuples(st.sampled_from(["end", "end twice", "die", "delete", "never know"]), st.integers(0, 9), NANOS),
    st.tuples(st.sampled_from(["late bill"]), st.integers(0, 9), NANOS),
    st.tuples(st.just("divide"), st.integers(1, 8), NANOS),
)


@dataclass
class Model:
    """What each budget has spent and reserved for each holder, and which turns hold what."""

    limits: dict[UUID, tuple[BudgetKind, int]]
    spent: Counter[tuple[UUID, str]] = field(default_factory=Counter[tuple[UUID, str]])
    reserved: Counter[tuple[UUID, str]] = field(default_factory=Counter[tuple[UUID, str]])
    running: list[tuple[Principal, Turn, int]] = field(default_factory=list[tuple[Principal, Turn, int]])
    unbilled: list[tuple[Principal, Turn, int]] = field(default_factory=list[tuple[Principal, Turn, int]])

    def places(self, who: Principal) -> list[tuple[UUID, str]]:
        """Return where a turn of somebody counts."""
        return [
            (budget, str(who.user_id) if kind.scope is BudgetScope.MEMBER else "all")
            for budget, (kind, _) in self.limits.items()
        ]

    def fits(self, who: Principal, nanos: int) -> bool:
        """Whether all hard budgets have room."""
        return not nanos or all(
            self.spent[place] + self.reserved[place] + nanos <= self.limits[place[0]][1]
            for place in self.places(who)
            if self.limits[place[0]][0].hard
        )

    def add(self, who: Principal, *, spent: int = 0, reserved: int = 0) -> None:
        """Change the sums of somebody's budgets."""
        for place in self.places(who):
            self.spent[place] += spent
            self.reserved[place] += reserved

    def sums(self) -> Counter[tuple[UUID, int, int]]:
        """Return what the table must have."""
        return Counter(
            (place[0], self.spent[place], self.reserved[place]) for place in self.spent.keys() | self.reserved.keys()
        )


async def take(scene: BudgetScene, model: Model, step: tuple[str, int, int]) -> None:
    """Take a step in the store and in the model."""
    what, number, nanos = step
    if what == "begin":
        who = (scene.ann, scene.abe)[number]
        try:
            turn = await scene.begin(who, Expense(unpriced_nanos=nanos))
        except BudgetExceededError:
            assert not model.fits(who, nanos)
            return
        assert model.fits(who, nanos)
        model.add(who, reserved=nanos)
        model.running.append((who, turn, nanos))
        return
    pending = model.unbilled if what == "late bill" else model.running
    if not pending:
        return
    who, turn, held = pending.pop(number % len(pending))
    match what:
        case "late bill":
            assert await scene.end(who, turn, nanos) is None
            model.add(who, spent=nanos - held)
        case "end" | "end twice" | "never know":
            for _ in range(2 if what == "end twice" else 1):
                await scene.end(who, turn, None if what == "never know" else nanos)
            model.add(who, spent=held if what == "never know" else nanos, reserved=-held)
        case _:
            if what == "die":
                rule = SettlingRule(own=frozenset(), dead=frozenset({OWNER}), only=turn.id)
                assert len(await PostgresTurns(scene.database).settle(rule)) == 1
            else:
                await scene.run("DELETE FROM public.chat_sessions WHERE id = $1", turn.session_id)
            model.add(who, spent=held, reserved=-held)
            model.unbilled.append((who, turn, held))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limits=st.dictionaries(st.integers(0, len(BUDGETS) - 1), st.integers(0, 200), max_size=6),
    steps=st.lists(STEPS, max_size=25),
)
async def test_whatever_happens_the_sums_are_those_of_whole_numbers(
    database: Database, database_urls: DatabaseUrls, limits: dict[int, int], steps: list[tuple[str, int, int]]
) -> None:
    scene = await budget_scene(database)
    await scene.run("DELETE FROM agentapi.budgets")
    await PostgresBudgets(database).set_plan(scene.chief, scene.ann.org_id, "free")
    budgets = {await scene.set(BUDGETS[n], f"{most}e-9"): (BUDGETS[n], most) for n, most in limits.items()}
    model = Model(budgets)
    for step in steps:
        if step[0] == "divide":
            for budget in budgets:  # to the model, slices are all the same
                await divide(database_urls.owner, budget, *step[1:])
        else:
            await take(scene, model, step)
        rows = await scene.read(
            "SELECT budget_id, sum(spent_nanos), sum(reserved_nanos) AS reserved FROM agentapi.budget_periods "
            "WHERE budget_id = ANY($1) GROUP BY budget_id, org_id, holder, starts",
            list(budgets),
        )
        assert Counter(tuple(row.values()) for row in rows) == model.sums()
    await scene.check()


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(0, 300),
    turns=st.lists(st.tuples(st.booleans(), st.integers(1, 40), NANOS), min_size=2, max_size=16),
)
async def test_at_once_nothing_exceeds_a_limit_and_nothing_stays_reserved(
    database: Database, limit: int, turns: list[tuple[bool, int, int]]
) -> None:
    scene = await budget_scene(database)
    await scene.run("DELETE FROM agentapi.budgets")
    hot, _ = await scene.set(BudgetKind(), f"{limit}e-9"), await scene.set(BudgetKind(hard=False), "0")
    spent = 0

    async def one(*, is_ann: bool, held: int, cost: int) -> None:
        nonlocal spent
        who = scene.ann if is_ann else scene.abe
        try:
            turn = await scene.begin(who, Expense(unpriced_nanos=held))
        except BudgetExceededError:
            return
        # No more than it held: then the sums never exceed the limit.
        await scene.end(who, turn, min(cost, held))
        spent += min(cost, held)

    async with asyncio.TaskGroup() as group:
        for is_ann, held, cost in turns:
            group.create_task(one(is_ann=is_ann, held=held, cost=cost))
    assert spent <= limit
    assert await scene.sums(hot) in ([(spent, 0, 0)], [])
