"""A real PgBouncer before the database: it is recognised by what it does, and its restarts cost no turn."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from agentapi_mcp.app.database import open_unchanged_store
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import ConfigurationError, StoreMismatchError, StoreUnavailableError
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.settings import VERSION, Settings
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate, status
from agentapi_mcp.testing.http import Steps
from tests.support.clusters import Cluster
from tests.support.peers.openai import OpenAIPeer
from tests.support.pgbouncer import PgBouncer, open_pgbouncer
from tests.support.signals import listening
from tests.support.standbys import PairTemplate
from tests.support.turn_loads import answer_through, check_each_answered_once, replica

APP, OWNER, DATABASE = "agentapi_app", "agentapi_owner", "agentapi"
FOUND_OUT = PoolOptions(statement_cache=None)
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server(pair_template: PairTemplate) -> Iterator[Cluster]:
    """Return a server that asks for no password, with a migrated database."""
    with tempfile.TemporaryDirectory(prefix="ps-", dir="/tmp", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        with pair_template.started_alone(Path(path)) as alone:
            yield alone


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory for sockets that every account may enter."""
    with tempfile.TemporaryDirectory(prefix="pb-", dir="/tmp", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        yield Path(path)


@pytest.fixture
def pgbouncer(server: Cluster, place: Path) -> Iterator[PgBouncer]:
    """Return a pooler in transaction mode."""
    with open_pgbouncer(server, place / "pooler") as pooler:
        yield pooler


@asynccontextmanager
async def found_out(url: str) -> AsyncGenerator[Database]:
    """Open a database, and let the program find out what stands before it."""
    async with open_database(RemoteServer(url), FOUND_OUT) as database:
        yield database


async def test_a_pooler_in_transaction_mode_is_recognised_and_statements_run_through_it(pgbouncer: PgBouncer) -> None:
    async def count(database: Database, number: int) -> int:
        async with database.as_system("test") as connection:
            return await connection.fetchval(
                "SELECT $1::int + count(*)::int FROM agentapi.migrations WHERE false", number
            )

    async with (
        found_out(pgbouncer.address(APP, DATABASE)) as database,
        found_out(pgbouncer.address(APP, DATABASE)) as other,
    ):
        assert not database.owns_connections
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(count(each, number)) for number in range(40) for each in (database, other)]
        assert [task.result() for task in tasks] == [number for number in range(40) for _ in range(2)]


async def test_a_database_without_a_pooler_and_a_pooler_in_session_mode_are_told_from_it(
    server: Cluster, place: Path
) -> None:
    async with found_out(server.address(APP, DATABASE)) as database:
        assert database.owns_connections
    for connections in (3, 1):  # with one, the second client that would show the mode waits
        with open_pgbouncer(server, place / f"of{connections}", mode="session", connections=connections) as pooler:
            async with found_out(pooler.address(APP, DATABASE)) as database:
                assert database.owns_connections


async def test_doctor_finds_a_pooler_that_the_settings_rule_out(pgbouncer: PgBouncer, tmp_path: Path) -> None:
    url = SecretStr(pgbouncer.address(APP, DATABASE))
    with pytest.raises(StoreMismatchError, match="AGENTAPI_STATEMENT_CACHE=false"):
        async with open_unchanged_store(Settings(home=tmp_path, database_url=url, statement_cache=True), {}):
            raise AssertionError
    async with open_unchanged_store(Settings(home=tmp_path, database_url=url, statement_cache=False), {}) as found:
        assert found is not None


async def test_the_migrations_run_through_it(pgbouncer: PgBouncer) -> None:
    url = pgbouncer.address(OWNER, DATABASE)
    assert await migrate(url, program=VERSION) == ()
    assert all(state.applied_at for state in await status(url))


@asynccontextmanager
async def program(settings: Settings, peer: OpenAIPeer) -> AsyncGenerator[Services]:
    environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
    async with open_app(settings, environ) as app:
        yield await app.services_provider.services()


@pytest.mark.parametrize("is_direct", [True, False])
async def test_changes_are_listened_for_past_the_pooler_where_an_address_leads_there(
    pgbouncer: PgBouncer, server: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_direct: bool
) -> None:
    direct = SecretStr(server.address(APP, DATABASE)) if is_direct else None
    pooled = SecretStr(pgbouncer.address(APP, DATABASE))
    settings = Settings(home=tmp_path, database_url=pooled, listen_database_url=direct, shutdown_grace_seconds=0)
    async with OpenAIPeer() as peer, listening(server.address(APP, DATABASE)) as other, program(settings, peer) as own:
        assert ("no_listen" in {record.message for record in caplog.records}) is not is_direct
        turn = await own.turns.chat(
            own.principal, ChatRequest(message=uuid4().hex, agent="droid"), wait=timedelta(seconds=60)
        )
        assert turn.status is TurnStatus.COMPLETED
        if is_direct:
            heard = asyncio.Event()
            stop = own.change_feed.subscribe(own.principal, lambda _: heard.set())
            other.send(Signal(SignalKind.CATALOGUE_CHANGED))
            await other.flush()
            await heard.wait()
            stop()


async def test_an_address_to_listen_at_that_is_none_is_refused(pgbouncer: PgBouncer, tmp_path: Path) -> None:
    pooled, direct = SecretStr(pgbouncer.address(APP, DATABASE)), SecretStr("mysql://a/b")
    settings = Settings(home=tmp_path, database_url=pooled, listen_database_url=direct)
    async with OpenAIPeer() as peer:
        with pytest.raises(ExceptionGroup) as refusal:
            async with program(settings, peer):
                pass
    assert refusal.group_contains(ConfigurationError, match="AGENTAPI_LISTEN_DATABASE_URL is no address of a Postgres")


async def test_while_it_is_down_callers_are_told_so(pgbouncer: PgBouncer) -> None:
    async with found_out(pgbouncer.address(APP, DATABASE)) as database:
        pgbouncer.kill()
        with pytest.raises(StoreUnavailableError, match="The database cannot be used"):
            await one(database)
        pgbouncer.start()
        assert await one(database) == 1


async def one(database: Database) -> int:
    async with database.as_system("test") as connection:
        return await connection.fetchval("SELECT 1")


async def test_no_turn_is_lost_and_none_is_asked_twice_when_the_pooler_restarts(
    pgbouncer: PgBouncer, server: Cluster, tmp_path: Path
) -> None:
    async def restart() -> None:
        for _ in range(3):
            await asyncio.to_thread(pgbouncer.kill)
            await asyncio.to_thread(pgbouncer.start)

    steps, url = Steps(), pgbouncer.address(APP, DATABASE)
    async with OpenAIPeer(pace=steps) as peer, replica(url, tmp_path, peer) as a, replica(url, tmp_path, peer) as b:
        told = await answer_through([a, b], peer, steps, restart)
    await check_each_answered_once(told, peer, server.superuser_url.replace("/postgres?", f"/{DATABASE}?"))
