"""Places for concurrent work: limits, fairness, and work that goes first."""

import asyncio
from collections.abc import AsyncGenerator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from agentapi_mcp.base.places import Places


class Scene:
    """Tasks that hold places until they are told to leave."""

    def __init__(self, places: Places, group: asyncio.TaskGroup) -> None:
        self.places = places
        self.group = group
        self.inside: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def enter(self, name: str, key: Hashable | None = None) -> None:
        """Let a task try to get a place; urgent without a key."""
        self.leave[name] = asyncio.Event()
        self.tasks[name] = self.group.create_task(self._hold(name, key))
        await settled()

    async def end(self, name: str) -> None:
        """Let a task leave its place."""
        self.leave[name].set()
        await settled()

    async def _hold(self, name: str, key: Hashable | None) -> None:
        async with self.places.urgent() if key is None else self.places.of(key):
            self.inside.append(name)
            await self.leave[name].wait()
            self.inside.remove(name)


async def settled() -> None:
    """Let every task go on until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)  # noqa: TID251  # lets other tasks run, and waits for no time


@asynccontextmanager
async def scene(total: int, *, reserved: int = 0, per_key: int = 99) -> AsyncGenerator[Scene]:
    """Make a scene; whoever is left at the end leaves."""
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        made = Scene(Places(total, reserved=reserved, per_key=per_key), group)
        stack.callback(lambda: [leave.set() for leave in made.leave.values()])
        yield made


async def test_no_more_than_the_places_are_held_and_who_waits_comes_next() -> None:
    async with scene(2) as it:
        for name in ("a", "b", "c"):
            await it.enter(name, name)
        assert it.inside == ["a", "b"]
        await it.end("a")
        assert it.inside == ["b", "c"]


async def test_a_key_holds_no_more_than_its_share() -> None:
    async with scene(4, per_key=2) as it:
        for name in ("a1", "a2", "a3"):
            await it.enter(name, "a")
        await it.enter("b1", "b")
        assert it.inside == ["a1", "a2", "b1"]
        await it.end("b1")
        assert it.inside == ["a1", "a2"]
        await it.end("a1")
        assert it.inside == ["a2", "a3"]


async def test_keys_that_wait_take_turns() -> None:
    async with scene(1) as it:
        await it.enter("first", "x")
        for name, key in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            await it.enter(name, key)
        order: list[str] = []
        for _ in range(3):
            await it.end((it.inside or ["first"])[0])
            order += it.inside
        assert order == ["a1", "b1", "a2"]


async def test_who_comes_later_does_not_overtake_who_waits_for_the_same_key() -> None:
    async with scene(2, per_key=1) as it:
        await it.enter("a1", "a")
        await it.enter("a2", "a")
        await it.end("a1")
        await it.enter("a3", "a")
        assert it.inside == ["a2"]


async def test_reserved_places_are_for_urgent_work_alone() -> None:
    async with scene(2, reserved=1) as it:
        await it.enter("a1", "a")
        await it.enter("a2", "a")
        assert it.inside == ["a1"]
        await it.enter("urgent")
        assert it.inside == ["a1", "urgent"]


async def test_urgent_work_goes_first() -> None:
    async with scene(1) as it:
        await it.enter("a1", "a")
        await it.enter("a2", "a")
        await it.enter("urgent")
        await it.end("a1")
        assert it.inside == ["urgent"]
        await it.enter("late", "b")
        await it.enter("more urgent")
        await it.end("urgent")
        assert it.inside == ["more urgent"]
        await it.end("more urgent")
        assert it.inside == ["a2"]


@pytest.mark.parametrize("key", ["a", None])
async def test_who_goes_away_while_waiting_leaves_the_place_to_the_next(key: str | None) -> None:
    async with scene(1) as it:
        await it.enter("first", "x")
        await it.enter("gone", key)
        await it.enter("next", key)
        it.tasks["gone"].cancel()
        await settled()
        await it.end("first")
        assert it.inside == ["next"]


@pytest.mark.parametrize("key", ["a", None])
async def test_who_goes_away_in_the_moment_of_being_let_in_gives_the_place_back(key: str | None) -> None:
    async with scene(1) as it:
        await it.enter("first", "x")
        await it.enter("gone", key)
        await it.enter("next", key)
        it.leave["first"].set()
        await asyncio.sleep(0)  # noqa: TID251  # lets the first leave, whose place the second has then, and no more
        it.tasks["gone"].cancel()
        await settled()
        assert it.inside == ["next"]
