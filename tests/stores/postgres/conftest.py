"""A server with Supabase's roles, and databases on it that look like an organisation's project."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.clusters import open_cluster
from tests.support.databases import Seed, drop_seed
from tests.support.standbys import Pair, PairTemplate
from tests.support.supabase import Project, copied, make_roles, make_template


@pytest.fixture(scope="session")
async def supabase_server(given_url: str | None, postgres_bin: Path | None, seed: Seed) -> AsyncGenerator[str]:
    """Return a server's address for its superuser; it is yours, or one of its own, since roles belong to a server."""
    if given_url is not None:
        await _check_superuser(given_url)
        await make_roles(given_url)
        yield given_url
        return
    if postgres_bin is not None:
        with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp", ignore_cleanup_errors=True) as path:
            await asyncio.to_thread(Path(path).chmod, 0o711)
            with open_cluster(postgres_bin, Path(path) / "server") as cluster:
                await make_roles(cluster.superuser_url)
                yield cluster.superuser_url
        return
    async with seed.started("sb-") as server:
        await drop_seed(server)
        await make_roles(server.superuser)
        yield server.superuser


@pytest.fixture(scope="session")
async def project_template(supabase_server: str) -> AsyncGenerator[str]:
    """Return a project without the AgentAPI tables, to be copied."""
    async with make_template(supabase_server, deployed=False) as name:
        yield name


@pytest.fixture(scope="session")
async def deployed_template(supabase_server: str) -> AsyncGenerator[str]:
    """Return a project with the AgentAPI tables as deployed, to be copied."""
    async with make_template(supabase_server, deployed=True) as name:
        yield name


@pytest.fixture
async def project(supabase_server: str, project_template: str) -> AsyncGenerator[Project]:
    """Return a project that never saw AgentAPI."""
    async with copied(supabase_server, project_template) as made:
        yield made


@pytest.fixture
async def deployed(supabase_server: str, deployed_template: str) -> AsyncGenerator[Project]:
    """Return a project with the AgentAPI tables as deployed, and old conversations."""
    async with copied(supabase_server, deployed_template) as made:
        yield made


async def _check_superuser(server: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            pytest.skip("needs a superuser in TEST_DATABASE_URL: it makes Supabase's roles")
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def pair_template(postgres_bin: Path | None) -> Iterator[PairTemplate]:
    """Return the files of a primary and its standby."""
    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        yield PairTemplate.make(Path(path), postgres_bin)


@pytest.fixture
def pair(pair_template: PairTemplate) -> Iterator[Pair]:
    """Return a primary and a standby of one test's own."""
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        with pair_template.started(Path(path)) as servers:
            yield servers
