"""Budgets of turns that several end at the same time, and of users who are deleted meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import LiteralString
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.core.budgets.models import BudgetKind, BudgetPeriod, BudgetScope
from agentapi_mcp.core.conversations.models import SettlingRule, Turn
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.support.budgets import CENT, EXPENSE, MEMBER, ORGANIZATION, OWNER, BudgetScene, budget_scene

TURNS = 12
WAITING: LiteralString = """
SELECT FROM pg_stat_activity a WHERE a.datname = current_database() AND pg_blocking_pids(a.pid) <> '{}'
"""


@pytest.fixture
async def scene(database: Database) -> BudgetScene:
    """Make the organisations."""
    return await budget_scene(database)


async def delete_conversation(scene: BudgetScene, turn: Turn) -> None:
    await scene.run("DELETE FROM public.chat_sessions WHERE id = $1", turn.session_id)


async def delete_user(scene: BudgetScene, turn: Turn) -> None:
    await scene.run("DELETE FROM public.profiles WHERE id = $1", turn.user_id)


async def settle(scene: BudgetScene, turn: Turn) -> None:
    rule = SettlingRule(own=frozenset(), dead=frozenset({OWNER}), only=turn.id)
    await PostgresTurns(scene.database).settle(rule)


async def end(scene: BudgetScene, turn: Turn) -> None:
    await scene.end(scene.ann, turn, CENT)


@pytest.mark.parametrize("other", [end, settle, delete_conversation, delete_user])
async def test_who_ever_else_ends_a_turn_at_the_same_time_it_is_settled_once(
    scene: BudgetScene, other: Callable[[BudgetScene, Turn], Coroutine[None, None, None]]
) -> None:
    kinds = (ORGANIZATION, MEMBER, BudgetKind(period=BudgetPeriod.DAY, hard=False))
    budgets = [await scene.set(kind, "100") for kind in kinds]
    turns = [await scene.begin(scene.ann) for _ in range(TURNS)]
    async with asyncio.TaskGroup() as group:
        for turn in turns:
            for one in (end, other):
                group.create_task(one(scene, turn))
    for budget in budgets:
        assert await scene.sums(budget) == [(TURNS * CENT, 0, 0)]


@pytest.mark.parametrize("is_last_first", [False, True])
async def test_a_user_whose_turns_have_other_budgets_is_deleted_without_a_ring_of_waits(
    scene: BudgetScene, database_urls: DatabaseUrls, *, is_last_first: bool
) -> None:
    """Another turn counts in the budgets of both of the user's: its end and the deletion lock them in one order."""
    agents = {await scene.set(BudgetKind(scope=BudgetScope.AGENT, subject=name), "1"): name for name in ("one", "two")}
    first, last = sorted(agents)

    async def begin(who: Principal, budget: UUID) -> Turn:
        return await scene.begin(who, replace(EXPENSE, lender=agents[budget]))

    order = (last, first) if is_last_first else (first, last)
    anns, *_ = [await begin(scene.ann, budget) for budget in order]
    both = await scene.begin(scene.abe, replace(EXPENSE, lender=agents[last]), agent=agents[first])
    owner = await asyncpg.connect(database_urls.owner)
    try:
        async with asyncio.TaskGroup() as group, owner.transaction():
            # Whoever comes next waits here for its first budget, one behind the other.
            await owner.execute("SELECT FROM agentapi.budget_periods WHERE budget_id = $1 FOR UPDATE", first)
            steps = (scene.end(scene.abe, both, CENT), delete_user(scene, anns))
            for number, step in enumerate(steps, start=1):
                group.create_task(step)
                while len(await scene.read(WAITING)) < number:
                    pass
    finally:
        await owner.close()
    for budget in agents:
        assert await scene.sums(budget) == [(11 * CENT, 0, 1)]
