"""That an answer has arrived is known from then on, however soon the process ends after it."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from typing_extensions import override

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.core.conversations.caller_news import CallerNews
from agentapi_mcp.core.conversations.models import Turn
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


async def is_noted(world: World, turn: Turn) -> bool:
    """Wait until the database knows that an answer has arrived."""
    await world.until("id = $1 AND delivered_at IS NOT NULL", turn.id)
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


async def test_a_mark_that_the_database_did_not_take_is_written_when_the_process_ends(world: World) -> None:
    wire, url = await world.wire()
    async with AsyncExitStack() as stack:
        server = await replace(world, stack=stack).program(url)
        turn = await server.turns.chat(server.principal, asks(), wait=LONG)
        wire.break_at("mark_delivered", Break.BEFORE)
        server.turns.delivered(turn)
        await asyncio.wait_for(wire.has_broken.wait(), 30)
    assert await is_noted(world, turn)
