"""An address that names several servers: what is connected to is the primary, before a failover and after it."""

import asyncio
import socket
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from agentapi_mcp.app.database import open_unchanged_store
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import ConfigurationError, StoreMismatchError, StoreUnavailableError
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.settings import VERSION, Settings
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.hosts import Hosts, split_hosts
from agentapi_mcp.stores.postgres.migrate import migrate, status
from agentapi_mcp.stores.postgres.schema_state import is_current
from agentapi_mcp.stores.postgres.signals import PostgresSignals
from tests.conftest import DatabaseUrls
from tests.support.standbys import Pair
from tests.support.wires import open_wire

PATIENT = PoolOptions(command_timeout=timedelta(hours=1))
pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        ("postgresql://u:p@a/x", ["postgresql://u:p@a/x"]),
        ("postgresql://u:p@a:1,b/x?sslmode=require", [f"postgresql://u:p@{a}/x?sslmode=require" for a in ("a:1", "b")]),
        ("postgresql://u:p,q@[::1]:1,[::2]:2/x", [f"postgresql://u:p,q@{a}/x" for a in ("[::1]:1", "[::2]:2")]),
        ("postgresql://a,b", ["postgresql://a", "postgresql://b"]),
        ("postgresql://u@/x?host=/run/a", ["postgresql://u@/x?host=/run/a"]),
        ("postgresql://u@/x?host=/a,/b&port=5", [f"postgresql://u@/x?host=%2F{a}&port=5" for a in "ab"]),
        (
            "postgresql:///x?user=u&host=a,b&port=1,2",
            [f"postgresql:///x?user=u&host={a}" for a in ("a&port=1", "b&port=2")],
        ),
        ("postgresql://c/x?host=a,b", ["postgresql://c/x?host=a,b"]),  # as with asyncpg, the first place counts
    ],
)
def test_each_server_of_an_address_is_found(url: str, urls: list[str]) -> None:
    assert list(split_hosts(url)) == urls


async def refusal(url: str, error: type[Exception]) -> str:
    """Return what is said of an address that is refused."""
    with pytest.raises(error) as caught:
        async with open_database(RemoteServer(url), PoolOptions(acquire_timeout=timedelta(seconds=1))):
            pass
    return str(caught.value)


async def test_fewer_ports_than_hosts_are_no_address() -> None:
    assert "is no address" in await refusal("postgresql://u@/x?host=a,b,c&port=1,2", ConfigurationError)


@pytest.mark.parametrize(
    "url",
    [f"postgresql://u@127.0.0.1:9/x?target_session_attrs={name}" for name in ("standby", "read-only", "sideways")]
    + [f"postgresql://u@127.0.0.1:9,127.0.0.1:10/x?target_session_attrs={name}" for name in ("any", "prefer-standby")],
)
async def test_an_address_that_asks_for_a_server_that_cannot_be_written_is_refused(url: str) -> None:
    said = await refusal(url, ConfigurationError)
    assert "AGENTAPI_DATABASE_URL" in said
    assert "target_session_attrs to primary or read-write" in said


async def test_none_of_several_servers_answers() -> None:
    said = await refusal("postgresql://u:secret@127.0.0.1:9,127.0.0.1:10/x", StoreUnavailableError)
    assert "nothing answers at its address" in said


async def is_standby(database: Database) -> bool:
    async with database.as_system("test") as connection:
        return await connection.fetchval("SELECT pg_is_in_recovery()")


async def test_connections_lead_to_the_primary_whichever_is_named_first(pair: Pair) -> None:
    async with open_database(RemoteServer(pair.app), PoolOptions()) as database:
        assert not await is_standby(database)
    states = await status(pair.owner)
    assert all(state.applied_at for state in states)
    assert await migrate(pair.owner, program=VERSION) == ()


async def test_a_standby_alone_is_told_from_a_database_that_was_never_migrated(pair: Pair, tmp_path: Path) -> None:
    standby = pair.standby.address("agentapi_app", "postgres")
    settings = Settings(home=tmp_path, database_url=SecretStr(standby))
    with pytest.raises(StoreUnavailableError, match=r"standby.*AGENTAPI_DATABASE_URL name its primary"):
        async with open_unchanged_store(settings, {}):
            pass
    primary = pair.primary.address("agentapi_app", "postgres")
    with pytest.raises(StoreMismatchError, match="agentapi-mcp migrate"):
        async with open_unchanged_store(Settings(home=tmp_path, database_url=SecretStr(primary)), {}):
            pass


async def test_a_start_between_two_primaries_waits_for_the_next_one(pair: Pair) -> None:
    pair.kill_primary()
    said = await refusal(pair.app, StoreUnavailableError)
    assert "a standby answers at its address, and no primary" in said
    async with asyncio.TaskGroup() as group:
        promoting = group.create_task(asyncio.to_thread(pair.promote))
        async with open_database(
            RemoteServer(pair.app), PoolOptions(acquire_timeout=timedelta(seconds=25))
        ) as database:
            assert await is_current(database, program=VERSION)
        await promoting


async def test_nothing_leads_to_a_primary_that_was_cut_off_once_another_one_is_found(pair: Pair) -> None:
    server, connected, heard = RemoteServer(pair.app), asyncio.Semaphore(0), asyncio.Event()
    async with open_database(server, PATIENT) as database, asyncio.TaskGroup() as group:
        listener = PostgresSignals(server, database, SystemClock())
        listener.subscribe(lambda _: heard.set())
        listening = group.create_task(listener.run(connected.release))
        await connected.acquire()
        await hold_at_once(database, 3)
        pair.freeze_primary()
        try:
            await asyncio.to_thread(pair.promote)
            # The idle connections lead to it, and each call finds the other server by itself.
            async with asyncio.TaskGroup() as calls:
                found = [calls.create_task(is_standby(database)) for _ in range(3)]
            assert [call.result() for call in found] == [False] * 3
            await connected.acquire()
            async with open_database(server, PoolOptions()) as other:
                sender = PostgresSignals(server, other, SystemClock())
                sender.send(Signal(SignalKind.CATALOGUE_CHANGED))
                await sender.flush()
                await heard.wait()
            listening.cancel()
        finally:
            pair.thaw_primary()


async def test_a_caller_who_gives_up_on_a_server_that_says_nothing_leaves_no_connection_to_it(pair: Pair) -> None:
    options = PoolOptions(begin_timeout=timedelta(seconds=1), call_timeout=timedelta(seconds=60))
    async with open_database(RemoteServer(pair.app), options) as database:
        renewed = asyncio.Event()
        database.on_renewal(renewed.set)
        await hold_at_once(database, 3)
        pair.freeze_primary()
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await database.call_as_system("test", "SELECT 1 AS one")
            assert renewed.is_set()
        finally:
            pair.thaw_primary()


async def test_whoever_gives_up_on_a_server_that_says_nothing_is_led_past_it_next_time(
    own_database: DatabaseUrls,
) -> None:
    async with open_wire(own_database.app) as (_, url), asyncio.TaskGroup() as group:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.settimeout(0)
            hosts = Hosts(url.replace("@", f"@127.0.0.1:{silent.getsockname()[1]},"))
            connecting = group.create_task(hosts.connect(timeout=1000))
            taken, _ = await asyncio.get_running_loop().sock_accept(silent)
            with taken:
                connecting.cancel()
                await asyncio.wait([connecting])
                connection = await hosts.connect(timeout=1000)
                connection.terminate()
            with pytest.raises(BlockingIOError):
                silent.accept()  # nobody else came


async def hold_at_once(database: Database, count: int) -> None:
    """Leave so many connections that are idle."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(database.as_system("test"))


async def write_read_only(database: Database) -> None:
    async with database.as_system("test") as connection:
        await connection.execute("SET LOCAL transaction_read_only = on")
        await connection.execute("DELETE FROM agentapi.replicas")


async def test_a_server_that_becomes_read_only_is_connected_to_anew(pair: Pair) -> None:
    """As where a name leads to another server after a failover, and the connections stand."""
    async with open_database(RemoteServer(pair.app), PoolOptions()) as database:
        async with database.as_system("test") as connection:
            first = await connection.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(StoreUnavailableError, match="read-only"):
            await write_read_only(database)
        async with database.as_system("test") as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") != first
