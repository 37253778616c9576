"""Postgres for the tests: one cluster is made and migrated in a run; servers run on copies of it, without fsync."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from agentapi_mcp.app.database import APP_LOGIN
from agentapi_mcp.base import locks
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.server.binaries import own_binaries
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres, EmbeddedUrls
from agentapi_mcp.stores.postgres.server.paths import Home
from tests.support.clusters import Cluster
from tests.support.embedded import SharedHome

# Of two settings of one name Postgres takes the last.
_NOT_DURABLE = """\
#!/bin/sh
exec '{postgres}' "$@" -c fsync=off -c full_page_writes=off -c synchronous_commit=off -c shared_buffers=64MB
"""
# Tables, partitioned ones as a whole, that have no rows after the migrations.
_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname IN ('public', 'agentapi') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
 ORDER BY 1
"""
_LEFT_AGENTS = """
INSERT INTO public.agents (name, type, config)
SELECT format('a-left-%s', n), 'openai', '{"model": "left"}' FROM generate_series(1, 60) AS n
"""
_ROLES = "SELECT quote_ident(rolname) AS name FROM pg_roles WHERE rolname <> current_user AND rolname !~ '^pg_'"


@dataclass(frozen=True)
class DatabaseUrls:
    """The addresses of one database: for the owner of its tables, and for the program."""

    owner: str
    app: str


@dataclass(frozen=True)
class Server:
    """A server on a copy of the cluster, and the home that it works in."""

    home: Path
    urls: EmbeddedUrls

    @property
    def superuser(self) -> str:
        """The address of the database `postgres` for the superuser."""
        return _address(self.urls.owner_url, login="postgres", database="postgres")

    async def leave_agents(self) -> None:
        """Put agents into the program's database as other tests leave them, more than a message or a page lists.

        They sort before the tests' own, so that a test which depends on what others left fails every time.
        """
        connection = await asyncpg.connect(self.urls.owner_url)
        try:
            await connection.execute("SET row_security = off")
            await connection.execute(_LEFT_AGENTS)
        finally:
            await connection.close()


@dataclass(frozen=True)
class Seed:
    """A cluster that is migrated and stopped, in a directory that all workers of a run share."""

    place: Path

    def make(self) -> None:
        """Make it, unless another worker has; one that is being made is waited for."""
        lock = locks.open_lock(str(self.place / "seed.lock"))
        try:
            locks.acquire(lock)
            if not self._programs.exists():
                self._make()
        finally:
            os.close(lock)

    @asynccontextmanager
    async def started(self, prefix: str) -> AsyncGenerator[Server]:
        """Run a server on a copy, in a short directory that everybody may enter."""
        with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp", ignore_cleanup_errors=True) as path:
            await asyncio.to_thread(os.chmod, path, 0o711)
            home = SharedHome(Path(path) / "home")
            await self.copy_to(home.path)
            postgres = EmbeddedPostgres(home.path, bindir=self._programs)
            try:
                yield Server(home.path, await asyncio.to_thread(postgres.ensure))
            finally:
                await asyncio.to_thread(postgres.release)
                await asyncio.to_thread(home.remove)

    async def copy_to(self, home: Path) -> None:
        """Make a home that has the cluster already, for a program that starts its server itself."""
        await asyncio.to_thread(self.make)
        await asyncio.to_thread(self._copy_to, Home(home))

    def _copy_to(self, home: Home) -> None:
        account = home.account()
        home.prepare(account)
        shutil.copytree(self._home.data, home.data)
        for place in (home.data, *home.data.rglob("*")):
            account.chown(place)

    @property
    def _home(self) -> Home:
        return Home(self.place / "seed")

    @property
    def _programs(self) -> Path:
        return self.place / "programs"

    def _make(self) -> None:
        home = SharedHome(self._home.root)
        home.remove()  # what a worker left that was killed
        postgres = EmbeddedPostgres(home.path, linger=timedelta(0))
        urls = postgres.ensure()
        asyncio.run(migrate(urls.owner_url, program=VERSION, grant_to=APP_LOGIN))
        postgres.release()
        home.wait_until_gone()
        self._write_programs()

    def _write_programs(self) -> None:
        # Copied, since tools are installed where the account that Postgres runs as may not come.
        binaries = own_binaries(self._home, self._home.account())
        new = self.place / "new"
        new.mkdir(mode=0o755)
        program = new / "postgres"
        program.write_text(_NOT_DURABLE.format(postgres=binaries / "postgres"), encoding="utf-8")
        program.chmod(0o755)
        new.rename(self._programs)


@dataclass(frozen=True)
class Template:
    """A migrated database that nobody is connected to, and the logins of its copies."""

    admin: str
    name: str
    owner: str
    app: str

    @asynccontextmanager
    async def copied(self, template: str | None = None) -> AsyncGenerator[DatabaseUrls]:
        """Copy it for a while, or another database of its server."""
        owner = urlsplit(self.owner).username
        options = f"TEMPLATE {template or self.name}" + ("" if owner is None else f' OWNER "{owner}"')
        async with created(self.admin, options) as name:
            yield DatabaseUrls(_address(self.owner, database=name), _address(self.app, database=name))


# For a run on a server that outlives it: the home of whole programs, and the database to be copied.
GIVEN_HOME = pytest.StashKey[Path]()
GIVEN_TEMPLATE = pytest.StashKey[Template]()


@dataclass(frozen=True)
class SharedDatabase:
    """A database that tests use one after the other, the program's pool of it, and the means to empty it."""

    urls: DatabaseUrls
    database: Database
    rows: "Emptier"


class Emptier:
    """Deletes all rows of a database that were not there at first."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> None:
        self._connection = connection
        self._statement = statement

    async def empty(self) -> None:
        """Delete them."""
        await self._connection.execute(self._statement)


@asynccontextmanager
async def emptier(url: str) -> AsyncGenerator[Emptier]:
    """Open the means to empty a database again and again, which has the rows of the migrations alone as yet."""
    connection = await asyncpg.connect(url)
    try:
        tables = [row["name"] for row in await connection.fetch(_TABLES)]
        empty = [name for name in tables if not await connection.fetchval(f"SELECT EXISTS (SELECT FROM {name})")]  # noqa: S608  # names of the catalogue
        # One statement, at whose end alone it is looked which row refers to another: no order has to be kept.
        deletes = ", ".join(f"t{n} AS (DELETE FROM {name})" for n, name in enumerate(empty))  # noqa: S608  # the same
        yield Emptier(connection, f"WITH {deletes} SELECT")
    finally:
        await connection.close()


@asynccontextmanager
async def created(admin: str, options: str = "") -> AsyncGenerator[str]:
    """Create a database for a while, and return its name."""
    name = f"test_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(admin)
    try:
        await connection.execute(f"CREATE DATABASE {name} {options}")
        try:
            yield name
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@asynccontextmanager
async def given_template(url: str) -> AsyncGenerator[Template]:
    """Make a template on a server of yours."""
    async with created(url) as name:
        there = _address(url, database=name)
        await migrate(there, program=VERSION)
        yield Template(url, name, there, there)


async def cluster_template(cluster: Cluster) -> Template:
    """Make a template on a server of another version."""
    name = "agentapi"
    return Template(cluster.superuser_url, name, *await cluster.create_migrated(name))


def embedded_template(server: Server) -> Template:
    """Return the template that every copy of the cluster has."""
    name = urlsplit(server.urls.owner_url).path[1:]
    return Template(server.superuser, name, server.urls.owner_url, server.urls.app_url)


async def drop_seed(server: Server) -> None:
    """Drop the migrated database and all its roles: what is left is a server that never saw the program."""
    connection = await asyncpg.connect(server.superuser)
    try:
        await connection.execute(f"DROP DATABASE {urlsplit(server.urls.owner_url).path[1:]}")
        roles = [row["name"] for row in await connection.fetch(_ROLES)]
        await connection.execute(f"DROP ROLE {', '.join(roles)}")  # at once, since they gave each other memberships
    finally:
        await connection.close()


def _address(url: str, *, database: str, login: str | None = None) -> str:
    parts = urlsplit(url)
    who, at, host = parts.netloc.rpartition("@")
    netloc = f"{who}{at}{host}" if login is None else f"{login}@{host}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))
