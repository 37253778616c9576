"""Personal tokens are looked up in one statement at a time, whoever guesses, and none is forgotten."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.core.access.models import FoundToken
from agentapi_mcp.core.access.ports import PersonalTokenStore
from agentapi_mcp.core.access.token_lookups import MOST_AT_ONCE, TokenLookups

VALID = b"valid"
FOUND: Any = object()


@dataclass
class HeldStore:
    """A store whose statements end, or fail, when the test says so."""

    known: dict[bytes, FoundToken] = field(default_factory=lambda: {VALID: FOUND})
    asked: list[set[bytes]] = field(default_factory=list[set[bytes]])
    began: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    ends: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    fails: bool = False
    running: int = 0
    most_running: int = 0

    async def find(self, token_hashes: Collection[bytes]) -> Mapping[bytes, FoundToken]:
        """Find them, once the test lets the statement end."""
        known = dict(self.known)  # as they are when the statement begins
        self.asked.append(set(token_hashes))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.began.release()
        try:
            await self.ends.acquire()
        finally:
            self.running -= 1
        if self.fails:
            self.fails = False
            raise StoreUnavailableError("away")
        return {each: known[each] for each in token_hashes if each in known}

    def end(self, statements: int = 1) -> None:
        """Let some statements end."""
        for _ in range(statements):
            self.ends.release()


def guess(number: int) -> bytes:
    return b"guess %d" % number


async def test_a_valid_token_waits_for_few_statements_however_many_guesses_wait() -> None:
    store = HeldStore()
    lookups = TokenLookups(cast("PersonalTokenStore", store))
    async with asyncio.TaskGroup() as group:
        guesses = [group.create_task(lookups.find(guess(number))) for number in range(3 * MOST_AT_ONCE)]
        valid = group.create_task(lookups.find(VALID))
        await store.began.acquire()
        store.end(5)
    assert [len(batch) for batch in store.asked] == [1, MOST_AT_ONCE, MOST_AT_ONCE, MOST_AT_ONCE]
    assert store.most_running == 1
    assert valid.result() is FOUND
    assert {task.result() for task in guesses} == {None}


async def test_a_thousand_clients_with_one_token_are_answered_by_one_statement_and_keep_nobody_waiting() -> None:
    store = HeldStore()
    lookups = TokenLookups(cast("PersonalTokenStore", store))
    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(lookups.find(guess(0))) for _ in range(1000)]
        valid = group.create_task(lookups.find(VALID))
        await store.began.acquire()
        store.end(2)
    assert store.asked == [{guess(0)}, {guess(0), VALID}]
    assert valid.result() is FOUND
    assert {task.result() for task in crowd} == {None}


async def test_a_lookup_is_not_answered_by_a_statement_that_began_before_it() -> None:
    store = HeldStore()
    lookups = TokenLookups(cast("PersonalTokenStore", store))
    async with asyncio.TaskGroup() as group:
        earlier = group.create_task(lookups.find(VALID))
        await store.began.acquire()
        store.known.clear()
        later = group.create_task(lookups.find(VALID))
        store.end(2)
    assert (earlier.result(), later.result()) == (FOUND, None)


@pytest.mark.parametrize("how", ["fails", "cancelled"])
async def test_one_whose_lookup_ends_early_takes_nobody_along(how: str) -> None:
    store = HeldStore()
    lookups = TokenLookups(cast("PersonalTokenStore", store))
    async with asyncio.TaskGroup() as group:
        first = group.create_task(lookups.find(guess(0)))
        await store.began.acquire()
        asking = asyncio.ensure_future(lookups.find(guess(1)))
        waiting = group.create_task(lookups.find(VALID))
        store.end()
        await store.began.acquire()  # that of the second, which asks for the third too
        assert first.done()
        if how == "fails":
            store.fails = True
            store.end()
        else:
            asking.cancel()
        with pytest.raises(StoreUnavailableError if how == "fails" else asyncio.CancelledError):
            await asking
        store.end()
    assert waiting.result() is FOUND
    assert store.asked[1:] == [{guess(1), VALID}, {VALID}]


async def test_one_that_is_cancelled_while_it_waits_is_not_asked_about() -> None:
    store = HeldStore()
    lookups = TokenLookups(cast("PersonalTokenStore", store))
    async with asyncio.TaskGroup() as group:
        group.create_task(lookups.find(guess(0)))
        await store.began.acquire()
        gone, stays = asyncio.ensure_future(lookups.find(guess(1))), group.create_task(lookups.find(VALID))
        for _ in range(2):  # both wait
            await asyncio.wait([gone, stays], timeout=0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        store.end(2)
    assert store.asked == [{guess(0)}, {VALID}]
