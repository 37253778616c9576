"""Signals that another login of the database makes up or repeats change nothing, and tell it nothing."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from agentapi_mcp.base.ids import SessionId, TurnId, new_id
from agentapi_mcp.core.clients.models import McpSession
from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.turn_signals import signal_of
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.catalogue import PostgresCatalogue
from agentapi_mcp.stores.postgres.database import Database, RemoteServer
from agentapi_mcp.stores.postgres.elicitations import PostgresElicitations
from agentapi_mcp.stores.postgres.mcp_sessions import PostgresMcpSessions
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.signals import PostgresSignals
from tests.conftest import DatabaseUrls
from tests.support.clocks import SteppedClock
from tests.support.logins import login_of
from tests.support.members import new_member
from tests.support.signals import channel_of, listening, payloads_of
from tests.support.worlds import LONG_LEASE, SLOW, asks, begun, open_world

OUTSIDE = ("anon", "authenticated")
PAYLOAD = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
AttackerConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True)
class Place:
    """Ann, who has one of each, and another process that works for her."""

    database: Database
    there: PostgresSignals
    ann: Principal
    session: SessionId
    mcp_session: str

    async def send(self, signal: Signal) -> Signal:
        """Send a signal from the other process."""
        self.there.send(signal)
        await self.there.flush()
        return signal

    def of_turn(self, kind: SignalKind, departure: Departure | None = None) -> Signal:
        """Make a signal of a turn of hers."""
        turn, ann = TurnId(new_id()), self.ann
        return Signal(kind, turn, self.session, ann.user_id, ann.org_id, departure=departure)


async def send_cancel(place: Place) -> Signal:
    return await place.send(place.of_turn(SignalKind.CANCEL))


async def send_caller_left(place: Place) -> Signal:
    return await place.send(place.of_turn(SignalKind.CALLER_LEFT, Departure.STOPPED))


async def send_ended(place: Place) -> Signal:
    return await place.send(place.of_turn(SignalKind.ENDED))


async def send_session_changed(place: Place) -> Signal:
    return await place.send(place.of_turn(SignalKind.SESSION_CHANGED))


async def rename_a_session(place: Place) -> Signal:
    ann = place.ann
    await PostgresSessions(place.database).rename(ann, place.session, "renamed")
    return Signal(SignalKind.SESSIONS_CHANGED, session_id=place.session, user_id=ann.user_id, org_id=ann.org_id)


async def change_the_catalogue(place: Place) -> Signal:
    await PostgresCatalogue(place.database).notify_changed()
    return Signal(SignalKind.CATALOGUE_CHANGED)


async def watch_a_resource(place: Place) -> Signal:
    await PostgresMcpSessions(place.database).watch(
        place.ann, place.mcp_session, "agentapi://catalog/agents", most=1, most_of_user=9
    )
    return Signal(SignalKind.MCP_SESSION_CHANGED, user_id=place.ann.user_id, mcp_session=place.mcp_session)


async def cancel_a_request(place: Place) -> Signal:
    request_id = "7 \x00\ud800"  # what a client may send, and text of the database cannot hold
    sessions = PostgresMcpSessions(place.database)
    await sessions.notify_cancelled(place.ann, place.mcp_session, request_id, Departure.STOPPED)
    return Signal(
        SignalKind.REQUEST_CANCELLED,
        user_id=place.ann.user_id,
        mcp_session=place.mcp_session,
        request_id=request_id,
        departure=Departure.STOPPED,
    )


async def answer_an_elicitation(place: Place) -> Signal:
    elicitations = PostgresElicitations(place.database)
    await elicitations.create(place.ann, place.mcp_session, "ask")
    await elicitations.answer(place.ann, place.mcp_session, "ask", {"result": {}})
    return Signal(
        SignalKind.REQUEST_ANSWERED, user_id=place.ann.user_id, mcp_session=place.mcp_session, request_id="ask"
    )


# How each kind is sent by the program.
GENUINE: Mapping[SignalKind, Callable[[Place], Awaitable[Signal]]] = {
    SignalKind.CANCEL: send_cancel,
    SignalKind.CALLER_LEFT: send_caller_left,
    SignalKind.ENDED: send_ended,
    SignalKind.SESSION_CHANGED: send_session_changed,
    SignalKind.SESSIONS_CHANGED: rename_a_session,
    SignalKind.CATALOGUE_CHANGED: change_the_catalogue,
    SignalKind.MCP_SESSION_CHANGED: watch_a_resource,
    SignalKind.REQUEST_CANCELLED: cancel_a_request,
    SignalKind.REQUEST_ANSWERED: answer_an_elicitation,
}


def test_every_kind_of_signal_is_tried() -> None:
    assert set(GENUINE) == set(SignalKind)


@asynccontextmanager
async def opened(database: Database, urls: DatabaseUrls) -> AsyncGenerator[tuple[Place, asyncio.Queue[Signal]]]:
    """Open two processes, and hear what one of them is told."""
    ann, mcp_session = await new_member(database), f"s-{uuid4().hex}"
    async with database.as_system("test") as connection:
        session = await connection.fetchval(
            "INSERT INTO public.chat_sessions (user_id, org_id) VALUES ($1, $2) RETURNING id", ann.user_id, ann.org_id
        )
    await PostgresMcpSessions(database).open_(ann, McpSession(id=mcp_session, protocol="2025-11-25"))
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    async with listening(urls.app) as here, listening(urls.app) as there:
        here.subscribe(heard.put_nowait)
        yield Place(database, there, ann, SessionId(session), mcp_session), heard


async def rows_of(database: Database) -> list[str]:
    """Read what the program has told so far."""
    async with database.as_system("test") as connection:
        return [row["signal"] for row in await connection.fetch("SELECT signal FROM agentapi.signals ORDER BY id")]


@pytest.mark.parametrize("role", OUTSIDE)
@pytest.mark.parametrize("kind", SignalKind)
async def test_a_forged_signal_is_heard_by_nobody_and_the_genuine_one_once(
    kind: SignalKind, role: str, database: Database, database_urls: DatabaseUrls
) -> None:
    async with opened(database, database_urls) as (place, heard), login_of(database_urls, role) as attacker:
        channel = await channel_of(database)  # it may have leaked, as by a dump of the database
        copied = await payloads_of(attacker, channel)
        genuine = await GENUINE[kind](place)
        assert await heard.get() == genuine
        payload, rows = await copied.get(), await rows_of(database)
        assert PAYLOAD.fullmatch(payload)  # nothing that says what, whose, or in whose words
        await forge(attacker, channel, (payload, *rows, "", str(uuid4()), "x" * 7_999))
        last = await place.send(place.of_turn(SignalKind.ENDED))
        assert await heard.get() == last
        assert heard.empty()


async def forge(attacker: AttackerConnection, channel: str, payloads: tuple[str, ...]) -> None:
    """Say what was heard and what is made up on every channel, and try to write what would prove it."""
    for payload in payloads:
        for name in (channel, "agentapi"):
            await attacker.execute("SELECT pg_notify($1, $2)", name, payload)
    for statement in (
        "INSERT INTO agentapi.signals (sender, signal) VALUES (gen_random_uuid(), '{}')",
        "UPDATE agentapi.signals SET sender = gen_random_uuid()",
        "DELETE FROM agentapi.signals",
        "SELECT signal FROM agentapi.signals",
        "SELECT value FROM agentapi.facts",
        "SET ROLE agentapi_system",
        "SET ROLE agentapi_writer",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await attacker.execute(statement)


@pytest.mark.parametrize("role", OUTSIDE)
async def test_no_outside_login_is_shown_the_channels_name(
    role: str, database: Database, database_urls: DatabaseUrls
) -> None:
    channel = await channel_of(database)
    assert re.fullmatch(r"agentapi_[0-9a-f]{32}", channel)
    async with listening(database_urls.app), login_of(database_urls, role) as attacker:
        shown = [
            repr([tuple(row) for row in await attacker.fetch(statement)])
            for statement in (
                "SELECT * FROM pg_stat_activity",
                "SELECT * FROM pg_listening_channels()",
                "SELECT * FROM pg_locks",
                "SELECT * FROM pg_prepared_statements",
            )
        ]
        assert "insufficient privilege" in shown[0]  # the listening connection is among them
        assert not any(channel in text for text in shown)


async def test_a_flood_of_notifications_costs_a_read_at_a_time(database: Database, database_urls: DatabaseUrls) -> None:
    clock, heard = SteppedClock(), list[Signal]()
    signals = PostgresSignals(RemoteServer(database_urls.app), database, clock)
    signals.subscribe(heard.append)
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(listening(database_urls.app))
        attacker = await stack.enter_async_context(login_of(database_urls, "anon"))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        running = group.create_task(signals.run(lambda: None))
        first = await clock.next_wait()  # after the read that every connection begins with
        statement = "SELECT pg_notify($1, n::text) FROM generate_series(1, 5000) AS n"
        await attacker.execute(statement, await channel_of(database))
        sent = [Signal(SignalKind.ENDED, turn_id=TurnId(new_id())) for _ in range(3)]
        for signal in sent:
            there.send(signal)
            await there.flush()
        assert heard == []
        clock.end_wait()
        assert await clock.next_wait() == first  # after one more read
        assert heard == sent
        running.cancel()


@pytest.mark.parametrize("role", OUTSIDE)
async def test_no_outside_login_stops_a_turn_or_tells_of_a_change(
    role: str, database: Database, database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    async with open_world(database_urls, tmp_path) as world:
        server, caller = await world.program(lease=LONG_LEASE), await world.program(lease=LONG_LEASE)
        told: asyncio.Queue[Signal] = asyncio.Queue()
        async with begun(server, asks(SLOW)) as asking, login_of(database_urls, role) as attacker:
            await world.peer.received(path="/api/v1/chat/completions")
            (running,) = await caller.turns.recent(caller.principal, 1, only_open=True)
            caller.change_feed.subscribe(caller.principal, told.put_nowait)
            for kind in SignalKind:
                signal = signal_of(kind, running, departure=Departure.STOPPED)
                payload = json.dumps({name: str(value) for name, value in asdict(signal).items() if value is not None})
                for channel in ("agentapi", await channel_of(database)):
                    await attacker.execute("SELECT pg_notify($1, $2)", channel, payload)
            world.steps.release(20)
            assert (await asking).status is TurnStatus.COMPLETED
        ended = await told.get()
        while ended.kind is not SignalKind.ENDED:  # that the session changed may have been on its way
            assert ended.turn_id == running.id
            ended = await told.get()
        assert (ended.turn_id, told.empty()) == (running.id, True)
