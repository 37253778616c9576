"""Signals: at once in the own process, gathered for the others, and never inside a transaction of others' work."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
from typing_extensions import override

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import ConfigurationError, StoreUnavailableError
from agentapi_mcp.base.ids import TurnId, new_id
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.database import Database, RemoteServer
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.signals import PostgresSignals, tell
from tests.conftest import DatabaseUrls
from tests.support.clocks import ManualClock
from tests.support.signals import channel_of, listening, payloads_of
from tests.support.supabase import Project


def ended() -> Signal:
    return Signal(SignalKind.ENDED, turn_id=TurnId(new_id()))


async def test_the_own_process_hears_a_signal_at_once_and_once(database_urls: DatabaseUrls) -> None:
    heard: list[Signal] = []
    async with AsyncExitStack() as stack:
        signals = await stack.enter_async_context(listening(database_urls.app))
        other = await stack.enter_async_context(listening(database_urls.app))
        signals.subscribe(heard.append)
        first, last = ended(), ended()
        signals.send(first)
        assert heard == [first]
        await signals.flush()
        # What another process sends after it arrives after it.
        arrived = asyncio.Event()
        signals.subscribe(lambda signal: arrived.set() if signal == last else None)
        other.send(last)
        await other.flush()
        await arrived.wait()
    assert heard == [first, last]


async def test_what_a_process_sends_costs_it_no_read(database: Database, database_urls: DatabaseUrls) -> None:
    clock, begun, heard = CountingClock(), asyncio.Event(), asyncio.Event()
    signals = PostgresSignals(RemoteServer(database_urls.app), database, clock)
    observer = await asyncpg.connect(database_urls.app)
    notified = await payloads_of(observer, await channel_of(database))
    async with listening(database_urls.app) as other, asyncio.TaskGroup() as group:
        running = group.create_task(signals.run(begun.set))
        await begun.wait()
        for _ in range(20):
            signals.send(ended())
            await signals.flush()
            await notified.get()  # so it has been sent to the other connection, too
        signals.subscribe(lambda _: heard.set())
        other.send(ended())
        await other.flush()
        await heard.wait()
        assert clock.sleeps <= 2  # one after each read: that which every connection begins with, and the last
        running.cancel()
    await observer.close()


async def test_signals_of_a_moment_go_out_in_one_transaction(database: Database, database_urls: DatabaseUrls) -> None:
    sender = PostgresSignals(RemoteServer(database_urls.app), database, ManualClock())
    sent = [ended() for _ in range(5)]
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    async with listening(database_urls.app) as signals:
        signals.subscribe(heard.put_nowait)
        for signal in sent:
            sender.send(signal)
        await sender.flush()
        assert [await heard.get() for _ in sent] == sent
        await sender.flush()  # nothing is left to be sent
        assert heard.empty()


async def test_a_signal_is_heard_once_in_whatever_order_transactions_end(
    database: Database, database_urls: DatabaseUrls
) -> None:
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    first, second, late = ended(), ended(), ended()
    async with AsyncExitStack() as stack:
        signals = await stack.enter_async_context(listening(database_urls.app))
        other = await stack.enter_async_context(listening(database_urls.app))
        signals.subscribe(heard.put_nowait)
        async with database.as_system("test") as connection:
            await tell(connection, late)  # before the others, and committed after them
            for signal in (first, second):
                other.send(signal)
                await other.flush()
                assert await heard.get() == signal
        assert await heard.get() == late
        other.send(first)
        await other.flush()
        assert await heard.get() == first
    assert heard.empty()


async def test_what_has_expired_or_cannot_be_read_is_left_out(database: Database, database_urls: DatabaseUrls) -> None:
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    last = ended()
    async with listening(database_urls.app) as signals:
        signals.subscribe(heard.put_nowait)
        async with database.as_system("test") as connection:
            await connection.execute(
                "INSERT INTO agentapi.signals (sender, signal, expires_at) VALUES "
                """(gen_random_uuid(), '{"kind": "ended"}', now() - interval '1 second'), """
                """(gen_random_uuid(), '{"kind": "of a newer program"}', now() + interval '1 minute')"""
            )
            await tell(connection, last)
        assert await heard.get() == last
    assert heard.empty()


async def test_every_database_has_a_channel_of_its_own(database: Database, project: Project) -> None:
    await migrate(project.owner, program="0.1.0")
    other = await project.value("SELECT value FROM agentapi.facts WHERE name = 'signal_channel'")
    assert await channel_of(database) != other


async def test_the_sender_waits_a_moment_unless_one_is_in_a_hurry(
    database: Database, database_urls: DatabaseUrls
) -> None:
    clock = Halted()
    sender = PostgresSignals(RemoteServer(database_urls.app), database, clock)
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    slow, urgent = ended(), Signal(SignalKind.CANCEL, turn_id=TurnId(new_id()))
    async with listening(database_urls.app) as signals, asyncio.TaskGroup() as group:
        signals.subscribe(heard.put_nowait)
        sending = group.create_task(sender.run_sender())
        sender.send(slow)
        await clock.waited.wait()
        sender.send(urgent, hurry=True)
        assert [await heard.get() for _ in range(2)] == [slow, urgent]
        sending.cancel()


async def test_a_signal_that_cannot_be_sent_does_not_end_the_sender(
    database: Database, database_urls: DatabaseUrls
) -> None:
    sender = PostgresSignals(RemoteServer(database_urls.app), database, SystemClock())
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    async with listening(database_urls.app) as signals, asyncio.TaskGroup() as group:
        signals.subscribe(heard.put_nowait)
        sending = group.create_task(sender.run_sender())
        sender.send(Signal(SignalKind.CANCEL, request_id="x" * 9_000), hurry=True)  # beyond what a row takes
        last = ended()
        while heard.empty():  # the first ones may go out with the one that fails
            sender.send(last, hurry=True)
            await asyncio.sleep(0)  # noqa: TID251  # lets the sender work, and waits for no time
        assert await heard.get() == last
        sending.cancel()


class CountingClock(ManualClock):
    """A clock that counts the waits, which are over at once."""

    sleeps = 0

    @override
    async def sleep(self, duration: timedelta) -> None:
        self.sleeps += 1
        await super().sleep(duration)


class Halted(SystemClock):
    """A clock on which a sleep never ends."""

    def __init__(self) -> None:
        self.waited = asyncio.Event()

    @override
    async def sleep(self, duration: timedelta) -> None:
        self.waited.set()
        await asyncio.Event().wait()


class ShakyServer:
    """A server whose address cannot be told at first, for whatever reason."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.faults: list[Exception] = [
            StoreUnavailableError("away"),
            asyncpg.InternalClientError("the connection was closed"),
            ConfigurationError("a parameter that the server refuses"),
            ValueError("a defect"),
        ]

    async def url(self) -> str:
        """Fail once for each reason, then return the address."""
        if self.faults:
            raise self.faults.pop()
        return self.address

    async def recover(self) -> str:
        """Return the address."""
        return self.address


async def test_no_fault_of_a_connection_ends_the_listening(database: Database, database_urls: DatabaseUrls) -> None:
    listens = asyncio.Event()
    server = ShakyServer(database_urls.app)
    signals = PostgresSignals(server, database, ManualClock())
    running = asyncio.ensure_future(signals.run(listens.set))
    await listens.wait()
    assert not server.faults
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_a_connection_that_has_ended_is_made_anew(database: Database, database_urls: DatabaseUrls) -> None:
    listens: asyncio.Queue[None] = asyncio.Queue()
    signals = PostgresSignals(RemoteServer(database_urls.app), database, ManualClock())
    other = await asyncpg.connect(database_urls.app)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(signals.run(lambda: listens.put_nowait(None)))
        await listens.get()
        ended = await other.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN %'"
        )
        assert ended == 1
        await listens.get()
        running.cancel()
    await other.close()
