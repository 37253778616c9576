"""Who is told of which change."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from agentapi_mcp.base.ids import OrgId, SessionId, UserId
from agentapi_mcp.core.conversations.change_feed import ChangeFeed, may_receive
from agentapi_mcp.core.identity.principals import Action, Exceptions, Principal, TokenScope
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.catalogue import PostgresCatalogue
from agentapi_mcp.stores.postgres.database import Database
from tests.conftest import DatabaseUrls
from tests.support.members import new_member
from tests.support.signals import listening

ALICE, BOB = (Principal(UserId(UUID(int=n)), OrgId(UUID(int=9))) for n in (1, 2))
NARROW = replace(ALICE, scopes=frozenset({TokenScope.CHAT}))
DENIED = replace(ALICE, exceptions=Exceptions(denied=frozenset({Action.READ_SESSIONS})))
ELSEWHERE = Principal(ALICE.user_id, OrgId(UUID(int=8)))
OF_A_SESSION = {SignalKind.SESSION_CHANGED, SignalKind.SESSIONS_CHANGED, SignalKind.ENDED}


def of_alice(kind: SignalKind) -> Signal:
    return Signal(kind, session_id=SessionId(UUID(int=3)), user_id=ALICE.user_id, org_id=ALICE.org_id)


@pytest.mark.parametrize("kind", sorted(OF_A_SESSION))
def test_nobody_hears_of_anothers_sessions(kind: SignalKind) -> None:
    heard = [may_receive(who, of_alice(kind)) for who in (ALICE, BOB, ELSEWHERE, NARROW, DENIED)]
    assert heard == [True, False, False, False, False]


@pytest.mark.parametrize("kind", sorted(set(SignalKind) - OF_A_SESSION - {SignalKind.CATALOGUE_CHANGED}))
def test_what_processes_tell_each_other_of_requests_is_no_change_to_read(kind: SignalKind) -> None:
    assert not may_receive(ALICE, of_alice(kind))


def test_the_catalogue_is_everybodys_who_may_read() -> None:
    changed = Signal(SignalKind.CATALOGUE_CHANGED)
    assert [may_receive(who, changed) for who in (ALICE, BOB, ELSEWHERE, NARROW)] == [True, True, True, False]


async def test_a_change_is_told_to_those_who_may_read_it_until_they_leave(
    database: Database, database_urls: DatabaseUrls
) -> None:
    ann, told, again = await new_member(database), asyncio.Event(), asyncio.Event()
    unheard: list[Signal] = []
    async with listening(database_urls.app) as signals:
        feed = ChangeFeed(signals)
        feed.subscribe(replace(ann, scopes=frozenset()), unheard.append)
        left: list[Signal] = []
        feed.subscribe(ann, left.append)()
        stop = feed.subscribe(ann, lambda _: told.set())
        await PostgresCatalogue(database).notify_changed()
        await told.wait()
        stop()
        told.clear()
        feed.subscribe(ann, lambda _: again.set())
        await PostgresCatalogue(database).notify_changed()
        await again.wait()
    assert not told.is_set()
    assert unheard == left == []
