"""Budgets of turns that several end at the same time, and of users who are deleted meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from agentapi_mcp.core.budgets.models import BudgetKind, BudgetPeriod
from agentapi_mcp.core.conversations.models import SettlingRule, Turn
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.support.budgets import CENT, MEMBER, ORGANIZATION, OWNER, BudgetScene, budget_scene

TURNS = 12


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
