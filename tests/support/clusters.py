"""A Postgres server of another version than the embedded one, started by the tests from the binaries of a directory."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount, current_account
from agentapi_mcp.stores.postgres.server.servers import APP, OWNER
from tests.support.waiting import wait_until

_NOBODY = 65534
# Of no use after the tests, so nothing is made durable.
_SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "shared_buffers=16MB",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_parallel_workers=0",
    "jit=off",
    "timezone=UTC",
)


@dataclass(frozen=True)
class Cluster:
    """A server that listens on a UNIX socket in its own directory and trusts everyone who can reach it."""

    bindir: Path
    place: Path

    @property
    def superuser_url(self) -> str:
        """Its address for the superuser."""
        return self.address("postgres", "postgres")

    def address(self, login: str, database: str) -> str:
        """Return the address of a database for a login."""
        return f"postgresql://{login}@/{database}?host={self.place}"

    async def create_migrated(self, database: str) -> tuple[str, str]:
        """Create a database as the embedded server has it; return its addresses for the owner and for the program."""
        admin = await asyncpg.connect(self.superuser_url)
        try:
            if not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", OWNER):
                await admin.execute(f"CREATE ROLE {OWNER} LOGIN NOSUPERUSER NOBYPASSRLS CREATEROLE")
                await admin.execute(f"CREATE ROLE {APP} LOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT")
            await admin.execute(f"CREATE DATABASE {database} OWNER {OWNER}")
        finally:
            await admin.close()
        owner = self.address(OWNER, database)
        await migrate(owner, program=VERSION, grant_to=APP)
        return owner, self.address(APP, database)

    @property
    def data(self) -> Path:
        """Where its files are."""
        return self.place / "data"

    def make_place(self) -> None:
        """Make its own directory."""
        self.place.mkdir(mode=0o755)
        server_account().chown(self.place)

    def make_data(self) -> None:
        """Make the files of a server without databases of its own."""
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        self.run("initdb", "-D", self.data, *options)

    def run(self, program: str, *words: str | Path) -> None:
        """Run one of its programs."""
        status, said = server_account().run([self.bindir / program, *words])
        assert status == 0, said

    @contextmanager
    def started(self, *more_settings: str) -> Generator["subprocess.Popen[bytes]"]:
        """Start it and stop it at the end; as root, it runs as the user nobody."""
        account = server_account()
        words = [word for setting in (*_SETTINGS, *more_settings) for word in ("-c", setting)]
        process = subprocess.Popen(  # noqa: S603  # binaries that whoever runs the tests has named
            [self.bindir / "postgres", "-D", self.data, "-k", self.place, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            user=account.uid if account.is_other else None,
            group=account.gid if account.is_other else None,
            extra_groups=[] if account.is_other else None,
        )
        is_ready = [self.bindir / "pg_isready", "--quiet", "-h", self.place]
        try:
            wait_until(lambda: account.run(is_ready)[0] == 0, seconds=60)
            yield process
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            process.wait()


def server_account() -> ServerAccount:
    """Return the account that runs servers: never root."""
    return ServerAccount(_NOBODY, _NOBODY) if os.geteuid() == 0 else current_account()


@contextmanager
def open_cluster(bindir: Path, place: Path) -> Generator[Cluster]:
    """Start a server in an empty directory and stop it at the end."""
    cluster = Cluster(bindir, place)
    cluster.make_place()
    cluster.make_data()
    with cluster.started():
        yield cluster


def create_migrated(cluster: Cluster, database: str) -> tuple[str, str]:
    """Create a database from a fixture that is not asynchronous."""
    return asyncio.run(cluster.create_migrated(database))


def cluster_environ() -> dict[str, str]:
    """Return what leads a child process to the cluster's database, where one is tried."""
    names = ("AGENTAPI_DATABASE_URL", "AGENTAPI_MIGRATE_DATABASE_URL")
    return {name: os.environ[name] for name in names if name in os.environ}  # noqa: TID251  # of the tests
