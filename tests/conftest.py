"""Real servers for the tests, which each worker starts for itself, or yours by TEST_DATABASE_URL, TEST_REDIS_URL."""

import os
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Protocol, cast
from uuid import uuid4

import pytest
from hypothesis import settings

from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from tests.support.certificates import Pair
from tests.support.clusters import Cluster, create_migrated, open_cluster
from tests.support.databases import (
    GIVEN_HOME,
    GIVEN_TEMPLATE,
    DatabaseUrls,
    Seed,
    SharedDatabase,
    Template,
    cluster_template,
    embedded_template,
    emptier,
    given_template,
)
from tests.support.embedded import SharedHome
from tests.support.valkey import Valkey

pytest_plugins = ["tests.support.short_reports"]

settings.register_profile("house", deadline=None, print_blob=True)  # no test is timed
settings.load_profile("house")
_RUN_PLACE = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


_NO_AUTHORITY = "certificate.pem"
_PROGRAMS_SECONDS = 180
_PROPERTY_SECONDS = 180
POSTGRES_BIN = os.environ.get("TEST_POSTGRES_BIN")  # noqa: TID251  # it is a setting of the tests, not of the program


class Worker(Protocol):
    """A process that runs a share of the tests, as the one that started it sees it."""

    config: pytest.Config
    workerinput: dict[str, str]


def pytest_configure(config: pytest.Config) -> None:
    """Make the directory that the workers of a run share, unless this is one of them; let them trust nobody."""
    if not hasattr(config, "workerinput"):
        place = tempfile.TemporaryDirectory(prefix="run-", dir="/tmp", ignore_cleanup_errors=True)
        Path(place.name).chmod(0o711)  # Postgres runs as another account where root runs the tests
        config.stash[_RUN_PLACE] = place
        (Path(place.name) / _NO_AUTHORITY).write_bytes(Pair.make().pem)
    # Each HTTP client reads all certificates that this machine trusts, some 30 ms, and no test leaves the machine.
    os.environ["SSL_CERT_FILE"] = str(_run_place(config) / _NO_AUTHORITY)  # noqa: TID251  # OpenSSL's setting, not ours


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Worker) -> None:
    """Tell a worker where it is."""
    node.workerinput["run_place"] = node.config.stash[_RUN_PLACE].name


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    if _RUN_PLACE in config.stash:
        config.stash[_RUN_PLACE].cleanup()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give more time to tests that start whole programs, and to properties, which are tried with many examples.

    Where another version of Postgres is named, keep only what is tried on it.
    """
    if POSTGRES_BIN is not None:
        kept = [item for item in items if _uses_the_cluster(cast("pytest.Function", item))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    for item in items:
        if item.get_closest_marker("timeout"):
            continue
        if item.get_closest_marker("acceptance"):
            item.add_marker(pytest.mark.timeout(_PROGRAMS_SECONDS))
        elif getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.timeout(_PROPERTY_SECONDS))


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
def seed(pytestconfig: pytest.Config) -> Seed:
    """Return the cluster that every server of the tests is a copy of."""
    return Seed(_run_place(pytestconfig))


@pytest.fixture(scope="session")
async def edge_home(pytestconfig: pytest.Config, seed: Seed, cluster: Cluster | None) -> AsyncGenerator[Path]:
    """Return a home for whole programs, whose Postgres is up and migrated, unless another version is tried."""
    if GIVEN_HOME in pytestconfig.stash:
        yield pytestconfig.stash[GIVEN_HOME]
        return
    if cluster is not None:
        with tempfile.TemporaryDirectory(prefix="mcp-", dir="/tmp", ignore_cleanup_errors=True) as path:
            home = SharedHome(_reachable(path) / "home")
            yield home.path
            home.remove()
        return
    async with seed.started("mcp-") as server:
        await server.leave_agents()
        yield server.home


@pytest.fixture(scope="session")
def given_url() -> str | None:
    """Return the address of a server of yours, whose login may create databases."""
    return os.environ.get("TEST_DATABASE_URL")  # noqa: TID251  # it is a setting of the tests, not of the program


@pytest.fixture(scope="session")
async def template(
    pytestconfig: pytest.Config, given_url: str | None, seed: Seed, cluster: Cluster | None
) -> AsyncGenerator[Template]:
    """Return this worker's migrated database, to be copied."""
    if GIVEN_TEMPLATE in pytestconfig.stash:
        yield pytestconfig.stash[GIVEN_TEMPLATE]
        return
    if cluster is not None:
        yield await cluster_template(cluster)
        return
    if given_url is not None:
        async with given_template(given_url) as made:
            yield made
        return
    async with seed.started("db-") as server:
        yield embedded_template(server)


@pytest.fixture
async def own_database(template: Template) -> AsyncGenerator[DatabaseUrls]:
    """Return a migrated database for one test alone, which may change its tables."""
    async with template.copied() as urls:
        yield urls


@pytest.fixture(scope="session")
async def shared_database(template: Template) -> AsyncGenerator[SharedDatabase]:
    """Return the database that the tests of this worker use one after the other."""
    async with (
        template.copied() as urls,
        emptier(urls.owner) as rows,
        open_database(RemoteServer(urls.app), PoolOptions()) as database,
    ):
        yield SharedDatabase(urls, database, rows)


@pytest.fixture
async def database_urls(shared_database: SharedDatabase) -> AsyncGenerator[DatabaseUrls]:
    """Return a migrated database without rows; what a test writes into it goes with the test."""
    yield shared_database.urls
    await shared_database.rows.empty()


@pytest.fixture
def database(database_urls: DatabaseUrls, shared_database: SharedDatabase) -> Database:
    """Return the program's pool of it."""
    del database_urls  # which empties it
    return shared_database.database


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


def _run_place(config: pytest.Config) -> Path:
    """Return the directory that the workers of this run share."""
    given: dict[str, str] | None = getattr(config, "workerinput", None)
    return Path(config.stash[_RUN_PLACE].name if given is None else given["run_place"])


def _reachable(path: str) -> Path:
    """Let the account that runs Postgres enter a directory."""
    Path(path).chmod(0o711)
    return Path(path)
