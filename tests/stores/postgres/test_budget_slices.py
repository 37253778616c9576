"""Slices of a hot budget: turns that would wait for each other divide it, and all of it is one limit all the same."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentapi_mcp.base.errors import BudgetExceededError
from agentapi_mcp.core.budgets.models import BudgetKind, Expense
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.budgets import PostgresBudgets
from agentapi_mcp.stores.postgres.database import Database
from tests.conftest import DatabaseUrls
from tests.support.budgets import CENT, ORGANIZATION, BudgetScene, budget_scene, divide

MOST = 8
WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))"


@pytest.fixture
async def scene(database: Database) -> BudgetScene:
    """Make the organisations."""
    return await budget_scene(database)


async def rooms(scene: BudgetScene, budget: UUID) -> list[int]:
    """Return what is left in each slice."""
    rows = await scene.read(
        "SELECT share_nanos - spent_nanos - reserved_nanos AS room FROM agentapi.budget_periods WHERE budget_id = $1 "
        "ORDER BY slice",
        budget,
    )
    return [row["room"] for row in rows]


@asynccontextmanager
async def held(
    urls: DatabaseUrls, budget: UUID, most: int = MOST
) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Keep the first slices locked, as turns that begin or end do until they are committed."""
    owner = await asyncpg.connect(urls.owner)
    try:
        async with owner.transaction():
            await owner.execute(
                "SELECT FROM agentapi.budget_periods WHERE budget_id = $1 AND slice < $2 FOR UPDATE", budget, most
            )
            yield owner
    finally:
        await owner.close()


async def begin_after_a_wait(scene: BudgetScene, urls: DatabaseUrls, budget: UUID) -> Turn:
    """Begin a turn while all slices are locked."""
    async with asyncio.TaskGroup() as group, held(urls, budget) as owner, asyncio.timeout(30):
        task = group.create_task(scene.begin(scene.abe))
        while not await owner.fetchval(WAITS):
            assert not task.done()
    return task.result()


async def test_turns_that_would_wait_for_each_other_divide_a_budget(
    scene: BudgetScene, database_urls: DatabaseUrls
) -> None:
    budget = await scene.set(ORGANIZATION, "100")
    for _ in range(3):
        await scene.begin(scene.ann)
    assert await rooms(scene, budget) == [9970 * CENT]  # one after the other needs one
    await begin_after_a_wait(scene, database_urls, budget)
    first, second = await rooms(scene, budget)
    assert first + second == 9960 * CENT
    assert min(first, second) > 4900 * CENT
    # While the first is held, turns go through by the second, and no end of a turn in the second waits either.
    async with held(database_urls, budget, 1), asyncio.timeout(30):
        turn = await scene.begin(scene.ann)
        await scene.end(scene.ann, turn, CENT)
    assert (await rooms(scene, budget))[1] == second - CENT
    for _ in range(MOST + 2):
        await begin_after_a_wait(scene, database_urls, budget)
    assert len(await rooms(scene, budget)) == MOST
    assert await scene.sums(budget) == [(CENT, (4 + MOST + 2) * 10 * CENT, 0)]


async def test_a_soft_budget_is_divided_too(scene: BudgetScene, database_urls: DatabaseUrls) -> None:
    budget = await scene.set(BudgetKind(hard=False), "0")
    await scene.begin(scene.ann)
    for _ in range(2):
        await begin_after_a_wait(scene, database_urls, budget)
    assert len(await rooms(scene, budget)) == 3
    assert await scene.sums(budget) == [(0, 30 * CENT, 0)]


async def test_little_is_not_divided(scene: BudgetScene, database_urls: DatabaseUrls) -> None:
    budget = await scene.set(ORGANIZATION, "2")
    await scene.begin(scene.ann)
    await begin_after_a_wait(scene, database_urls, budget)
    assert await rooms(scene, budget) == [180 * CENT]


@pytest.mark.parametrize("slices", [2, MOST])
async def test_a_turn_is_refused_by_all_slices_together_and_by_no_single_one(
    scene: BudgetScene, database_urls: DatabaseUrls, slices: int
) -> None:
    budget = await scene.set(ORGANIZATION, "1.05")
    first = await scene.begin(scene.ann)
    for number in range(9):
        await divide(database_urls.owner, budget, slices, number)
        await scene.begin(scene.abe)
    await divide(database_urls.owner, budget, slices, 9)
    with pytest.raises(BudgetExceededError, match=r"has \$0\.05 left, \$1\.00 of it is "):
        await scene.begin(scene.ann)
    # What a turn gives back is everybody's.
    await scene.end(scene.ann, first, 5 * CENT)
    await scene.begin(scene.abe)
    assert sum(await rooms(scene, budget)) == 0


async def test_what_a_turn_costs_beyond_its_slice_is_taken_from_the_others(
    scene: BudgetScene, database_urls: DatabaseUrls
) -> None:
    budget = await scene.set(ORGANIZATION, "2")
    turn = await scene.begin(scene.ann)
    await divide(database_urls.owner, budget, 2, 0)
    await scene.end(scene.ann, turn, 195 * CENT)
    assert max(await rooms(scene, budget)) > 10 * CENT
    with pytest.raises(BudgetExceededError, match=r"has \$0\.05 left, and"):
        await scene.begin(scene.abe)


async def test_a_limit_that_changes_is_that_of_all_slices(scene: BudgetScene, database_urls: DatabaseUrls) -> None:
    budget = await scene.set(ORGANIZATION, "100")
    await scene.begin(scene.ann)
    await divide(database_urls.owner, budget, 4, 3)
    await scene.set(ORGANIZATION, "0.15")
    with pytest.raises(BudgetExceededError, match=r"has \$0\.05 left"):
        await scene.begin(scene.ann)
    await scene.set(ORGANIZATION, "0.3")
    for _ in range(2):
        await scene.begin(scene.ann)
    assert sum(await rooms(scene, budget)) == 0


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(0, 400),
    slices=st.integers(1, MOST),
    seed=st.integers(0, 1000),
    turns=st.lists(
        st.tuples(st.booleans(), st.integers(1, 40), st.sampled_from(["end", "delete", "delete two", "remove"])),
        min_size=4,
        max_size=24,
    ),
)
async def test_at_once_slices_are_one_limit_and_no_transaction_waits_in_a_ring(
    database: Database,
    database_urls: DatabaseUrls,
    limit: int,
    slices: int,
    seed: int,
    turns: list[tuple[bool, int, str]],
) -> None:
    scene = await budget_scene(database)
    await scene.run("DELETE FROM agentapi.budgets")
    budgets = [
        await scene.set(BudgetKind(), f"{limit}e-9"),
        await scene.set(BudgetKind(hard=False), "0"),
    ]
    for budget in budgets[:2]:
        await scene.begin(scene.ann, Expense(unpriced_nanos=0))
        await divide(database_urls.owner, budget, slices, seed)
    peak = 0

    async def one(who: Principal, nanos: int, how: str) -> None:
        nonlocal peak
        try:
            begun = [await scene.begin(who, Expense(unpriced_nanos=nanos)) for _ in range(1 + (how == "delete two"))]
        except BudgetExceededError:
            return
        [row] = await scene.read(
            "SELECT sum(spent_nanos + reserved_nanos) AS used FROM agentapi.budget_periods WHERE budget_id = $1",
            budgets[0],
        )
        peak = max(peak, row["used"] or 0)
        if how == "remove":
            await PostgresBudgets(database).remove_as_operator(scene.chief, budgets[1])
        elif how == "end":
            await scene.end(who, begun[0], nanos // 2)
        else:
            await scene.run("DELETE FROM public.chat_sessions WHERE id = ANY($1)", [turn.session_id for turn in begun])

    removed = False
    async with asyncio.TaskGroup() as group:
        for is_ann, nanos, how in turns:
            said = "end" if how == "remove" and removed else how
            removed = removed or how == "remove"
            group.create_task(one(scene.ann if is_ann else scene.abe, nanos, said))
    assert peak <= limit
    await scene.check()
