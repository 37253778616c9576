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
from agentapi_mcp.stores.postgres.signals import PostgresSignals
from tests.conftest import DatabaseUrls
from tests.support.clocks import ManualClock
from tests.support.signals import listening


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
        sender.send(Signal(SignalKind.CANCEL, reason="x" * 9_000), hurry=True)  # beyond what NOTIFY takes
        last = ended()
        while heard.empty():  # the first ones may go out with the one that fails
            sender.send(last, hurry=True)
            await asyncio.sleep(0)  # noqa: TID251  # lets the sender work, and waits for no time
        assert await heard.get() == last
        sending.cancel()


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
