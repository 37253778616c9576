"""The connections of a process: lanes that do not stop each other, and a server that has none left."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest
from typing_extensions import override

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.base.ids import UserId, new_id
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import PagePurpose
from agentapi_mcp.stores.postgres.connections import Connections, Lane, reserved_of
from agentapi_mcp.stores.postgres.database import Connection, Database, PoolOptions, RemoteServer, Server, open_database
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from agentapi_mcp.stores.postgres.jobs import PostgresJobs
from agentapi_mcp.stores.postgres.key_requests import PostgresKeyRequests
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.login_privileges import login_remark
from agentapi_mcp.stores.postgres.personal_tokens import PostgresPersonalTokens
from agentapi_mcp.stores.postgres.pool import Pool, Row
from tests.conftest import DatabaseUrls
from tests.support.members import new_member

LOCKS = {Lane.CALLS: 4711, Lane.RESERVED: 4712}
ISSUER = "https://issuer.example"
# What must be known whatever the calls of one user do.
ALWAYS: dict[str, Callable[[Database, Principal], Awaitable[object]]] = {
    "a personal token": lambda database, _: PostgresPersonalTokens(database).find([b"x" * 32]),
    "its use": lambda database, _: PostgresPersonalTokens(database).record_use(new_id(), datetime.now(UTC)),
    "an identity": lambda database, _: PostgresIdentities(database).find(ISSUER, "ann"),
    "its link": lambda database, ann: PostgresIdentities(database).is_linked(ISSUER, "ann", ann.user_id),
    "a first sign-in": lambda database, ann: PostgresIdentities(database).create(
        ISSUER, "ann", email=None, name=None, org_id=ann.org_id, role="member"
    ),
    "an invitation": lambda database, _: PostgresIdentities(database).accept_invitations(
        ISSUER, "bob", email="bob@example.com", name=None, user_id=None
    ),
    "a profile": lambda database, _: PostgresIdentities(database).link_profile(ISSUER, str(new_id())),
    "a WorkOS id": lambda database, _: PostgresIdentities(database).link_workos(ISSUER, "user_1"),
    "an e-mail": lambda database, _: PostgresIdentities(database).link_email(ISSUER, "eve", "eve@example.com"),
    "a membership": lambda database, ann: PostgresProfiles(database).find_membership(ann.user_id, ann.org_id),
    "a link": lambda database, _: PostgresKeyRequests(database).find(b"x" * 32, PagePurpose.KEY),
    "readiness": lambda database, _: login_remark(database),
    "the state of jobs": lambda database, _: PostgresJobs(database).states(),
}

FOUND = {"a first sign-in", "a membership", "the state of jobs"}  # the others are looked for in vain


@asynccontextmanager
async def held(
    database: Database, watcher: Database, lane: Lane, count: int, user: UserId | None = None
) -> AsyncGenerator[None]:
    """Let calls hold the `count` connections of a lane that they get, and five more wait for one."""
    key = LOCKS[lane]

    async def call() -> None:
        async with database.as_system("a slow call of one user", lane=lane, user=user) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", key)

    async def waiting(holder: Connection) -> int:
        return await holder.fetchval("SELECT count(*) FROM pg_locks WHERE objid::bigint = $1 AND NOT granted", key)

    async with watcher.as_system("test") as holder, asyncio.TaskGroup() as group:
        await holder.execute("SELECT pg_advisory_xact_lock($1)", key)
        calls = [group.create_task(call()) for _ in range(count + 5)]
        while await waiting(holder) < count:
            pass
        yield
        assert await waiting(holder) == count
        assert not any(each.done() for each in calls)
        for each in calls:
            each.cancel()


@pytest.mark.parametrize("what", ALWAYS)
async def test_who_somebody_is_is_known_while_one_user_holds_all_other_connections(
    what: str, database: Database, database_urls: DatabaseUrls
) -> None:
    ann = await new_member(database)
    async with (
        open_database(RemoteServer(database_urls.app), PoolOptions(max_size=4)) as busy,
        held(busy, database, Lane.CALLS, 3),
        asyncio.timeout(25),
    ):
        answer = await ALWAYS[what](busy, ann)
    assert what not in FOUND or answer is not None


async def test_calls_go_on_while_sign_ins_hold_all_that_is_reserved(
    database: Database, database_urls: DatabaseUrls
) -> None:
    async with (
        open_database(RemoteServer(database_urls.app), PoolOptions(max_size=4)) as busy,
        held(busy, database, Lane.RESERVED, 1),
        asyncio.timeout(25),
        busy.as_system("test") as connection,
    ):
        assert await connection.fetchval("SELECT 1") == 1


async def test_what_the_program_does_for_a_user_takes_no_more_than_that_users_share(
    database: Database, database_urls: DatabaseUrls
) -> None:
    async with (
        open_database(RemoteServer(database_urls.app), PoolOptions(max_size=5)) as busy,
        held(busy, database, Lane.CALLS, 3, user=UserId(new_id())),
        asyncio.timeout(25),
        busy.as_system("test", user=UserId(new_id())) as connection,
    ):
        assert await connection.fetchval("SELECT 1") == 1


@pytest.mark.parametrize(("size", "reserved"), [(1, 0), (2, 1), (5, 1), (20, 2), (200, 20)])
def test_a_tenth_of_the_connections_is_reserved_and_at_least_one(size: int, reserved: int) -> None:
    assert reserved_of(size) == reserved


async def test_a_pool_opens_no_more_connections_than_it_may(database: Database, database_urls: DatabaseUrls) -> None:
    async with (
        open_database(RemoteServer(database_urls.app), PoolOptions(max_size=4)) as busy,
        held(busy, database, Lane.CALLS, 3),
        held(busy, database, Lane.RESERVED, 1),
        database.as_system("test") as connection,
    ):
        opened = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", f"agentapi-mcp {busy.process}"
        )
    assert opened == 4


async def limit_connections(urls: DatabaseUrls, most: int) -> None:
    owner = await asyncpg.connect(urls.owner)
    try:
        name = urlsplit(urls.owner).path[1:]
        await owner.execute(f"ALTER DATABASE {name} CONNECTION LIMIT {most}")
    finally:
        await owner.close()


async def test_connections_beyond_the_servers_limit_are_waited_for(own_database: DatabaseUrls) -> None:
    await limit_connections(own_database, 6)

    async def call(database: Database, lane: Lane) -> int:
        async with database.as_system("test", lane=lane) as connection:
            return await connection.fetchval("SELECT 1 FROM pg_sleep(0.005)")

    options, server = PoolOptions(max_size=20), RemoteServer(own_database.app)
    async with (
        open_database(server, options) as one,
        open_database(server, options) as other,
        asyncio.TaskGroup() as group,
    ):
        calls = [
            group.create_task(call(database, lane))
            for _ in range(60)
            for database in (one, other)
            for lane in (Lane.CALLS, Lane.RESERVED)
        ]
    assert [each.result() for each in calls] == [1] * 240


async def test_a_connection_that_nobody_uses_is_given_back(own_database: DatabaseUrls) -> None:
    watcher = await asyncpg.connect(own_database.owner)
    options = PoolOptions(idle_lifetime=timedelta(milliseconds=50))
    async with open_database(RemoteServer(own_database.app), options) as database:
        name = f"agentapi-mcp {database.process}"
        async with database.as_system("test"):
            assert await watcher.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name)
        async with asyncio.timeout(25):
            while await watcher.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name):
                pass
        async with database.as_system("test") as connection:
            assert await connection.fetchval("SELECT 1") == 1
    await watcher.close()


@dataclass
class AskedServer(Server):
    """A server that counts how often a connection to it is tried."""

    address: str
    asked: int = 0
    asked_again: asyncio.Event = field(default_factory=asyncio.Event)

    @override
    async def url(self) -> str:
        self.asked += 1
        if self.asked > 1:
            self.asked_again.set()
        return self.address

    @override
    async def recover(self) -> str:
        return self.address


async def test_a_connection_that_cannot_be_made_takes_no_place(own_database: DatabaseUrls) -> None:
    watcher, server = await asyncpg.connect(own_database.owner), AskedServer(own_database.app)
    options = PoolOptions(max_size=2, idle_lifetime=timedelta(milliseconds=50))
    async with open_database(server, options) as database, asyncio.timeout(25):
        name = f"agentapi-mcp {database.process}"
        while await watcher.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name):
            pass
        server.address = "postgresql://127.0.0.1:1/nowhere"
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                async with database.as_system("test"):
                    raise AssertionError
        server.address = own_database.app
        async with database.as_system("test") as connection:
            assert await connection.fetchval("SELECT 1") == 1
    await watcher.close()


async def test_a_program_that_starts_waits_until_another_gives_a_connection_back(own_database: DatabaseUrls) -> None:
    await limit_connections(own_database, 1)
    holder, server = await asyncpg.connect(own_database.app), AskedServer(own_database.app)

    async def start() -> bool:
        async with open_database(server, PoolOptions()):
            return True

    async with asyncio.timeout(25), asyncio.TaskGroup() as group:
        started = group.create_task(start())
        await server.asked_again.wait()
        assert not started.done()
        await holder.close()
    assert started.result()


async def test_a_server_that_has_no_connection_left_in_time_is_told_so(own_database: DatabaseUrls) -> None:
    await limit_connections(own_database, 1)
    holder = await asyncpg.connect(own_database.app)
    options = PoolOptions(acquire_timeout=timedelta(seconds=1))  # in which the server answers
    with pytest.raises(StoreUnavailableError, match="it has no connection left"):
        async with open_database(RemoteServer(own_database.app), options):
            raise AssertionError
    await holder.close()


async def test_nobody_overtakes_one_whom_the_server_has_refused(database_urls: DatabaseUrls) -> None:
    asked, refused = list[bool](), asyncio.Event()

    async def connect_once() -> "asyncpg.Connection[Row]":
        asked.append(True)
        if len(asked) == 1:
            return await asyncpg.connect(database_urls.app)
        refused.set()
        raise asyncpg.TooManyConnectionsError

    pool = Pool(connect_once, timedelta(hours=1))
    connections = Connections(pool, 20, timedelta(seconds=25))
    held = await connections.acquire(Lane.CALLS)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(connections.acquire(Lane.CALLS))
        await refused.wait()
        late = group.create_task(connections.acquire(Lane.CALLS))  # which is to run before the first wakes
        connections.release(held, Lane.CALLS)
        done, _ = await asyncio.wait((first, late), return_when=asyncio.FIRST_COMPLETED)
        assert done == {first}
        connections.release(first.result(), Lane.CALLS)
        assert await late is held
    pool.terminate()
