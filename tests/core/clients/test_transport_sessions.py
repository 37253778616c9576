"""Transport sessions over a real database, through which processes hear of each other."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from agentapi_mcp.base.errors import LimitExceededError, PermissionDeniedError
from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.clients.transport_sessions import TransportSessions
from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.core.identity.principals import TokenScope
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.mcp_sessions import MOST_SESSIONS, PostgresMcpSessions
from tests.conftest import DatabaseUrls
from tests.support.members import new_member
from tests.support.signals import listening

URI, OTHER_URI = "agentapi://catalog/agents", "agentapi://catalog/models"


@asynccontextmanager
async def opened(database: Database, urls: DatabaseUrls) -> AsyncGenerator[TransportSessions]:
    async with listening(urls.app) as signals:
        yield TransportSessions(PostgresMcpSessions(database), signals)


def session() -> McpSession:
    return McpSession(id=f"s-{uuid4().hex}", protocol="2025-11-25", client={"name": "raw"})


async def test_a_session_is_its_users_alone_from_open_to_close(database: Database, database_urls: DatabaseUrls) -> None:
    ann, bob, made = await new_member(database), await new_member(database), session()
    async with opened(database, database_urls) as sessions:
        await sessions.open_(ann, made)
        assert await sessions.find(ann, made.id) == made
        assert await sessions.find(bob, made.id) is None
        assert not await sessions.close(bob, made.id)
        assert await sessions.close(ann, made.id)
        assert await sessions.find(ann, made.id) is None
        assert not await sessions.close(ann, made.id)


async def test_a_user_watches_as_many_resources_as_allowed_in_all_sessions_together(
    database: Database, database_urls: DatabaseUrls
) -> None:
    ann, bob = await new_member(database), await new_member(database)
    one, two, ended = session(), session(), session()
    async with opened(database, database_urls) as sessions:
        for each in (one, two, ended):
            await sessions.open_(ann, each)
        for each in (one, ended):
            assert await sessions.watch(ann, each.id, URI, most=9, most_of_user=2)
        assert await sessions.close(ann, ended.id)  # what is over counts for nothing
        assert await sessions.watch(ann, two.id, URI, most=9, most_of_user=2)
        with pytest.raises(LimitExceededError, match="You have 2 of 2 watched resources; unsubscribe from some"):
            await sessions.watch(ann, two.id, OTHER_URI, most=9, most_of_user=2)
        assert await sessions.watch(ann, two.id, URI, most=9, most_of_user=2)  # there is nothing to add
        await sessions.open_(bob, other := session())
        assert await sessions.watch(bob, other.id, URI, most=9, most_of_user=2)


async def test_what_is_watched_already_is_watched_again_without_a_lock(
    database: Database, database_urls: DatabaseUrls
) -> None:
    ann, one, two = await new_member(database), session(), session()
    async with opened(database, database_urls) as sessions, asyncio.timeout(20):
        for each in (one, two):
            await sessions.open_(ann, each)
        assert await sessions.watch(ann, one.id, URI, most=9, most_of_user=9)
        async with database.as_system("test") as holder:
            await holder.fetch("SELECT FROM public.mcp_sessions WHERE user_id = $1 FOR UPDATE", ann.user_id)
            assert await sessions.watch(ann, one.id, URI, most=9, most_of_user=9)


async def test_of_two_subscriptions_at_once_the_second_one_counts_the_first(
    database: Database, database_urls: DatabaseUrls
) -> None:
    ann, made = await new_member(database), [session() for _ in range(8)]
    refused = list[str]()
    async with opened(database, database_urls) as sessions:

        async def watch(session_id: str) -> None:
            try:
                await sessions.watch(ann, session_id, URI, most=9, most_of_user=2)
            except LimitExceededError:
                refused.append(session_id)

        for each in made:
            await sessions.open_(ann, each)
        async with asyncio.TaskGroup() as group:
            for each in made:
                group.create_task(watch(each.id))
    assert len(refused) == len(made) - 2


async def test_a_client_watches_as_many_resources_as_allowed(database: Database, database_urls: DatabaseUrls) -> None:
    ann, made = await new_member(database), session()
    async with opened(database, database_urls) as sessions:
        await sessions.open_(ann, made)
        assert await sessions.watch(ann, made.id, URI, most=1, most_of_user=9)
        assert await sessions.watch(ann, made.id, URI, most=1, most_of_user=9)
        assert not await sessions.watch(ann, made.id, OTHER_URI, most=1, most_of_user=9)
        await sessions.unwatch(ann, made.id, URI)
        assert await sessions.watch(ann, made.id, OTHER_URI, most=1, most_of_user=9)
        found = await sessions.find(ann, made.id)
    assert found is not None
    assert found.watched == {OTHER_URI}


async def test_a_user_with_too_many_sessions_ends_the_oldest_of_their_own_and_no_other(
    database: Database, database_urls: DatabaseUrls
) -> None:
    ann, bob = await new_member(database), await new_member(database)
    others, made = session(), [session() for _ in range(MOST_SESSIONS + 1)]
    async with opened(database, database_urls) as sessions:
        await sessions.open_(bob, others)
        for each in made:
            await sessions.open_(ann, each)
        assert [await sessions.find(ann, each.id) for each in made] == [None, *made[1:]]
        assert await sessions.find(bob, others.id) == others


async def test_who_may_not_read_watches_nothing(database: Database, database_urls: DatabaseUrls) -> None:
    ann, made = await new_member(database), session()
    narrow = replace(ann, scopes=frozenset({TokenScope.CHAT}))
    async with opened(database, database_urls) as sessions:
        await sessions.open_(narrow, made)
        with pytest.raises(PermissionDeniedError) as refused:
            await sessions.watch(narrow, made.id, URI, most=1, most_of_user=9)
        found = await sessions.find(narrow, made.id)
    assert refused.value.scope == TokenScope.READ
    assert found == made


async def test_a_change_of_a_session_is_told_to_its_user_and_for_that_session(
    database: Database, database_urls: DatabaseUrls
) -> None:
    ann, bob, made, other = await new_member(database), await new_member(database), session(), session()
    changed, unheard = asyncio.Event(), list[str]()
    async with opened(database, database_urls) as sessions:
        await sessions.open_(ann, made)
        sessions.on_change(bob, made.id, lambda: unheard.append("of another user"))
        sessions.on_change(ann, other.id, lambda: unheard.append("of another session"))
        stop = sessions.on_change(ann, made.id, changed.set)
        await sessions.watch(ann, made.id, URI, most=1, most_of_user=9)
        await changed.wait()
        stop()
        changed.clear()
        ended = asyncio.Event()
        sessions.on_change(ann, made.id, ended.set)
        await sessions.close(ann, made.id)
        await ended.wait()
    assert not changed.is_set()
    assert unheard == []


async def test_every_process_hears_of_a_cancellation_and_of_nothing_else(
    database: Database, database_urls: DatabaseUrls
) -> None:
    ann, made = await new_member(database), session()
    heard: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
    async with opened(database, database_urls) as here, opened(database, database_urls) as there:
        for sessions in (here, there):
            sessions.on_cancelled(lambda session_id, request_id, why: heard.put_nowait((session_id, request_id, why)))
        await here.open_(ann, made)
        await here.watch(ann, made.id, URI, most=1, most_of_user=9)  # a change, and no cancellation
        await here.notify_cancelled(ann, made.id, "7", Departure.TIMED_OUT)
        told = [await heard.get(), await heard.get()]
    assert told == [(made.id, "7", Departure.TIMED_OUT)] * 2
    assert heard.empty()
