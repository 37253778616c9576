"""What one hot hard budget adds to the beginning of a turn, at turns that come whether or not others have ended."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta

from benchmarks.results import Result, milliseconds
from benchmarks.servers import Bench, new_home, now, percentile
from tests.support.budgets import CENT, ORGANIZATION, BudgetScene, budget_scene

from agentapi_mcp.base.ids import UserId, new_id
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.budgets import PostgresBudgets
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres

_RATES, _ASKED_RATE = (50, 100, 200, 300, 400), 200
_POOLS, _CONNECTIONS, _USERS = 3, 8, 300
_SECONDS, _ROUNDS = 4, 5
_BOUND = 0.02


@dataclass
class _Times:
    """How long turns took to begin and to end, from when each of them was due."""

    begin: list[float] = field(default_factory=list[float])
    end: list[float] = field(default_factory=list[float])


async def budgets(bench: Bench) -> list[Result]:
    """Begin and end turns at several rates, by turns with a hot hard budget and without any."""
    async with AsyncExitStack() as stack:
        home = stack.enter_context(new_home(bench.provider))
        postgres = EmbeddedPostgres(home, linger=timedelta(seconds=1))
        urls = await asyncio.to_thread(postgres.ensure)
        stack.push_async_callback(asyncio.to_thread, postgres.release)
        await migrate(urls.owner_url, program=VERSION, grant_to="agentapi_app")
        pools = [
            await stack.enter_async_context(
                open_database(RemoteServer(urls.app_url), PoolOptions(max_size=_CONNECTIONS))
            )
            for _ in range(_POOLS)
        ]
        scene = await budget_scene(pools[0])
        users = await _users(scene)
        results: list[Result] = []
        holds = 0
        for rate in _RATES:
            with_one, without = _Times(), _Times()
            for _ in range(_ROUNDS):
                for times in (without, with_one):
                    budget = await scene.set(ORGANIZATION, "1000000") if times is with_one else None
                    await _offer(scene, pools, users, rate, times)
                    if budget is not None:
                        [(spent, reserved, _)] = await scene.sums(budget)
                        assert (spent, reserved) == (rate * _SECONDS * CENT, 0)
                        await PostgresBudgets(pools[0]).remove_as_operator(scene.chief, budget)
            added = percentile(with_one.begin, 95) - percentile(without.begin, 95)
            holds = rate if added <= _BOUND and holds == _before(rate) else holds
            results.append(_result(rate, with_one, without, added))
        results.append(
            Result("the highest of these rates that holds", f"{holds}/s", f"≥ {_ASKED_RATE}/s", holds >= _ASKED_RATE)
        )
    return results


def _before(rate: int) -> int:
    return max((each for each in _RATES if each < rate), default=0)


def _result(rate: int, with_one: _Times, without: _Times, added: float) -> Result:
    middles = [milliseconds(percentile(times, 50)) for times in (with_one.begin, without.begin)]
    slowest = [milliseconds(percentile(times, 95)) for times in (with_one.begin, without.begin)]
    ends = [milliseconds(percentile(times, 95)) for times in (with_one.end, without.end)]
    return Result(
        f"what one hot hard budget adds to the p95 of the beginning of a turn at {rate} turns/s, three pools",
        f"{milliseconds(added)} (p95 {slowest[0]} and {slowest[1]} without, p50 {middles[0]} and {middles[1]}; "
        f"of the end, p95 {ends[0]} and {ends[1]})",
        f"≤ {milliseconds(_BOUND)}" if rate <= _ASKED_RATE else "none",
        added <= _BOUND or rate > _ASKED_RATE,
    )


async def _users(scene: BudgetScene) -> list[Principal]:
    """Make members, so many that none of them has more turns at once than a user may have."""
    made = [UserId(new_id()) for _ in range(_USERS)]
    await scene.run("INSERT INTO public.profiles (id) SELECT unnest($1::uuid[])", made)
    await scene.run(
        "INSERT INTO public.organization_members (organization_id, user_id, role) "
        "SELECT $1, unnest($2::uuid[]), 'member'",
        *(scene.ann.org_id, made),
    )
    return [Principal(user, scene.ann.org_id, Role.MEMBER) for user in made]


async def _offer(scene: BudgetScene, pools: list[Database], users: list[Principal], rate: int, times: _Times) -> None:
    """Begin turns when they are due, however long those before them take, and end each a while later."""
    chance = random.Random(7)  # noqa: S311  # the same arrivals each time
    scenes = [BudgetScene(pool, scene.agent, scene.ann, scene.abe, scene.chief, scene.bo) for pool in pools]
    first = now() + 0.1

    async def one(number: int, due: float) -> None:
        await asyncio.sleep(max(0.0, due - now()))  # noqa: TID251  # it comes when it is due
        at, who = scenes[number % len(scenes)], users[number % len(users)]
        turn = await at.begin(who)
        times.begin.append(now() - due)
        ends = now() + chance.uniform(0.2, 0.6)
        await asyncio.sleep(max(0.0, ends - now()))  # noqa: TID251  # as an answer takes
        await at.end(who, turn, CENT)
        times.end.append(now() - ends)

    due = first
    async with asyncio.TaskGroup() as group:
        for number in range(rate * _SECONDS):
            group.create_task(one(number, due))
            due += chance.expovariate(rate)
