"""Real servers for the tests, which each worker starts for itself, or yours by TEST_DATABASE_URL, TEST_REDIS_URL."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

from agentapi_mcp.app.database import APP_LOGIN
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.embedded.launcher import EmbeddedPostgres
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate
from tests.support.clusters import Cluster, create_migrated, open_cluster
from tests.support.embedded import SharedHome
from tests.support.valkey import Valkey

pytest_plugins = ["tests.support.short_reports"]

settings.register_profile("house", deadline=None, print_blob=True)  # no test is timed
settings.load_profile("house")

POSTGRES_BIN = os.environ.get("TEST_POSTGRES_BIN")  # noqa: TID251  # it is a setting of the tests, not of the program


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only what is tried on another version of Postgres, where one is named."""
    if POSTGRES_BIN is not None:
        kept = [item for item in items if _uses_the_cluster(cast("pytest.Function", item))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def _uses_the_cluster(item: pytest.Function) -> bool:
    """Tell whether a test asks the version that is tried: whole programs started as users do bring their own."""
    starts_programs = "edge_home" in item.fixturenames and item.get_closest_marker("acceptance") is not None
    return "postgres_bin" in item.fixturenames and not starts_programs


@pytest.fixture(scope="session")
def postgres_bin() -> Path | None:
    """Return where the binaries of the Postgres are that is tried in place of the embedded one."""
    return None if POSTGRES_BIN is None else Path(POSTGRES_BIN)


@pytest.fixture(scope="session")
def cluster(postgres_bin: Path | None) -> Iterator[Cluster | None]:
    """Return this worker's server of the version that is tried."""
    if postgres_bin is None:
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as path,
        open_cluster(postgres_bin, _reachable(path) / "server") as server,
    ):
        yield server


@pytest.fixture(scope="session")
def cluster_urls(cluster: Cluster | None) -> tuple[str, str] | None:
    """Return the addresses of a database on it for whole programs, for the owner of its tables and for the program."""
    return None if cluster is None else create_migrated(cluster, "programs")


@pytest.fixture(autouse=True)
def _programs_use_the_cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whole programs use the version that is tried."""
    if POSTGRES_BIN is not None and "edge_home" in request.fixturenames:
        owner, app = request.getfixturevalue("cluster_urls")
        monkeypatch.setenv("AGENTAPI_DATABASE_URL", app)
        monkeypatch.setenv("AGENTAPI_MIGRATE_DATABASE_URL", owner)


@pytest.fixture(scope="session")
def edge_home(cluster_urls: tuple[str, str] | None) -> Iterator[Path]:
    """Return a home for whole programs, in a short directory that everybody may enter; its Postgres is started once."""
    del cluster_urls
    with tempfile.TemporaryDirectory(prefix="mcp-", dir="/tmp", ignore_cleanup_errors=True) as path:
        shared = SharedHome(_reachable(path) / "home")
        yield shared.path
        shared.remove()


@pytest.fixture(scope="session")
def given_url() -> str | None:
    """Return the address of a server of yours, whose login may create databases."""
    return os.environ.get("TEST_DATABASE_URL")  # noqa: TID251  # it is a setting of the tests, not of the program


@dataclass(frozen=True)
class DatabaseUrls:
    """The addresses of one database: for the owner of its tables, and for the program."""

    owner: str
    app: str


@pytest.fixture(scope="session")
async def database_urls(given_url: str | None, cluster: Cluster | None) -> AsyncGenerator[DatabaseUrls]:
    """Return a migrated database of this worker's own."""
    if cluster is not None:
        yield DatabaseUrls(*await cluster.create_migrated("agentapi"))
        return
    if given_url is not None:
        async with _database_on(given_url) as url:
            await migrate(url, program=VERSION)
            yield DatabaseUrls(url, url)
        return
    with tempfile.TemporaryDirectory(prefix="db-", dir="/tmp", ignore_cleanup_errors=True) as path:
        await asyncio.to_thread(os.chmod, path, 0o711)
        shared = SharedHome(Path(path) / "home")
        postgres = EmbeddedPostgres(shared.path)
        urls = await asyncio.to_thread(postgres.ensure)
        await migrate(urls.owner_url, program=VERSION, grant_to=APP_LOGIN)
        yield DatabaseUrls(urls.owner_url, urls.app_url)
        await asyncio.to_thread(postgres.release)
        await asyncio.to_thread(shared.remove)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return the address of a Redis: a Valkey that each worker starts for itself, or yours by TEST_REDIS_URL."""
    given = os.environ.get("TEST_REDIS_URL")  # noqa: TID251  # it is a setting of the tests, not of the program
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="vk-", dir="/tmp") as path:
        valkey = Valkey(Path(path))
        valkey.start()
        yield valkey.url
        valkey.stop()


@pytest.fixture
def redis_prefix() -> str:
    """Return what the keys of one test begin with, so that nobody else's are touched."""
    return f"test-{uuid4().hex[:10]}:"


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """Return a Valkey that a test may ill-treat."""
    with tempfile.TemporaryDirectory(prefix="vk-", dir="/tmp") as path:
        server = Valkey(Path(path))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
async def database(database_urls: DatabaseUrls) -> AsyncGenerator[Database]:
    """Return the two doors to it."""
    async with open_database(RemoteServer(database_urls.app), PoolOptions()) as database:
        yield database


def _reachable(path: str) -> Path:
    """Let the account that runs Postgres enter a directory."""
    Path(path).chmod(0o711)
    return Path(path)


@asynccontextmanager
async def _database_on(url: str) -> AsyncGenerator[str]:
    """Create a database on a server for a while."""
    name = f"agentapi_test_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(url)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        base, _, query = url.partition("?")
        yield f"{base.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()
