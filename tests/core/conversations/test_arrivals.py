"""That an answer has arrived is known from then on, however soon the process ends after it."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta

from typing_extensions import override

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.core.conversations.caller_news import CallerNews
from agentapi_mcp.core.conversations.models import Turn, TurnMark
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.support.wires import Break
from tests.support.worlds import LONG, World, asks


class HeldTurns(PostgresTurns):
    """The turns of a database, whose marks wait for it, as for a free connection on a busy machine."""

    reached: asyncio.Event
    released: asyncio.Event

    @override
    async def mark_delivered(self, turn_ids: Sequence[TurnId]) -> None:
        """Wait before it is written."""
        self.reached.set()
        await self.released.wait()
        await super().mark_delivered(turn_ids)


class HeldMarks(HeldTurns):
    """The turns of a database, whose marks of one caller wait for it."""

    @override
    async def mark(
        self, principal: Principal, turn_id: TurnId, mark: TurnMark, ago: timedelta = timedelta(0)
    ) -> datetime | None:
        """Wait before it is written."""
        self.reached.set()
        await self.released.wait()
        return await super().mark(principal, turn_id, mark, ago)


class AwayTurns(PostgresTurns):
    """The turns of a database that is away when it is to take marks, twice."""

    refusals = 2

    @override
    async def mark(
        self, principal: Principal, turn_id: TurnId, mark: TurnMark, ago: timedelta = timedelta(0)
    ) -> datetime | None:
        """Fail as where no connection can be had."""
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailableError("The database is away.")
        return await super().mark(principal, turn_id, mark, ago)


async def is_noted(world: World, turn: Turn) -> bool:
    """Wait until the database knows that an answer has arrived."""
    await world.until("id = $1 AND delivered_at IS NOT NULL", turn.id)
    return True


async def is_gone(world: World, turn: Turn, also: str = "") -> bool:
    """Wait until the database knows that the caller of a turn has left."""
    await world.until(f"id = $1 AND caller_gone_at IS NOT NULL{also}", turn.id)
    return True


async def test_a_mark_that_is_on_its_way_when_the_process_ends_is_written_by_the_last_flush(world: World) -> None:
    server = await world.program()
    turn = await server.turns.chat(server.principal, asks(), wait=LONG)
    async with open_database(RemoteServer(world.urls.app), PoolOptions()) as database, asyncio.TaskGroup() as group:
        turns = HeldTurns(database)
        turns.reached, turns.released = asyncio.Event(), asyncio.Event()
        news = CallerNews(turns, SystemClock(), group.create_task)
        writing = group.create_task(news.run())
        news.delivered(turn.id)
        await asyncio.wait_for(turns.reached.wait(), 30)
        writing.cancel()
        await asyncio.wait({writing})
        turns.released.set()
        await news.flush()
    assert await is_noted(world, turn)


async def test_a_mark_that_the_database_did_not_take_is_written_again_although_no_other_comes(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    first = await server.turns.chat(server.principal, asks(), wait=LONG)
    wire.break_at("mark_delivered", Break.BEFORE)
    server.turns.delivered(first)
    await asyncio.wait_for(wire.has_broken.wait(), 30)
    assert await is_noted(world, first)


async def test_a_departure_that_the_database_did_not_take_is_written_again_although_no_other_comes(
    world: World,
) -> None:
    server = await world.program()
    turn = await server.turns.chat(server.principal, asks(), wait=LONG)
    async with open_database(RemoteServer(world.urls.app), PoolOptions()) as database, asyncio.TaskGroup() as group:
        news = CallerNews(AwayTurns(database), SystemClock(), group.create_task)
        writing = group.create_task(news.run())
        news.mark(server.principal, turn.id, TurnMark.CALLER_GONE)
        assert await is_gone(world, turn)
        writing.cancel()


async def test_a_departure_that_is_on_its_way_when_the_process_ends_is_written(world: World) -> None:
    server = await world.program()
    turn = await server.turns.chat(server.principal, asks(), wait=LONG)
    async with open_database(RemoteServer(world.urls.app), PoolOptions()) as database, asyncio.TaskGroup() as group:
        turns = HeldMarks(database)
        turns.reached, turns.released = asyncio.Event(), asyncio.Event()
        tasks = list[asyncio.Task[None]]()

        def spawn(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
            tasks.append(group.create_task(work))
            return tasks[-1]

        news = CallerNews(turns, SystemClock(), spawn)
        news.mark(server.principal, turn.id, TurnMark.CALLER_GONE)
        await asyncio.wait_for(turns.reached.wait(), 30)
        news.mark(server.principal, turn.id, TurnMark.FOLLOWED)  # whose task has not begun
        turns.released.set()
        for task in tasks:
            task.cancel()
        await news.publish()
    assert await is_gone(world, turn, " AND followed_at IS NOT NULL")


async def test_a_mark_that_the_database_did_not_take_is_written_when_the_process_ends(world: World) -> None:
    wire, url = await world.wire()
    async with AsyncExitStack() as stack:
        server = await replace(world, stack=stack).program(url)
        turn = await server.turns.chat(server.principal, asks(), wait=LONG)
        wire.break_at("mark_delivered", Break.BEFORE)
        server.turns.delivered(turn)
        await asyncio.wait_for(wire.has_broken.wait(), 30)
    assert await is_noted(world, turn)
