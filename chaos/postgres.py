"""A Postgres of a run's own, as durable as a real one, that can be killed, stopped, frozen and filled up."""

import asyncio
import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from pwd import getpwnam

import asyncpg
from chaos.processes import Process, free_port, start
from chaos.timing import until

from agentapi_mcp.stores.postgres.server.accounts import ServerAccount, current_account
from agentapi_mcp.stores.postgres.server.binaries import own_binaries
from agentapi_mcp.stores.postgres.server.paths import Home

OWNER, APP, DATABASE = "agentapi_owner", "agentapi_app", "agentapi"
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}
_SETTINGS = ("listen_addresses=127.0.0.1", "fsync=on", "shared_buffers=32MB", "max_connections=100", "timezone=UTC")
_START_SECONDS = 90.0


@dataclass(frozen=True)
class Programs:
    """The binaries that the product brings along, and the account that runs them: never root."""

    bindir: Path
    account: ServerAccount

    @classmethod
    def copied_to(cls, place: Path) -> "Programs":
        """Copy them out of the environment, where another account may not come."""
        home = Home(place / "programs")
        account = current_account()
        if os.geteuid() == 0:  # the uid that a home of root's gets has no account, which initdb wants
            nobody = getpwnam("nobody")
            account = ServerAccount(nobody.pw_uid, nobody.pw_gid)
        home.prepare(account)
        return cls(own_binaries(home, account), account)


@dataclass
class Postgres:
    """A server on a port of its own; its program's logins have a password, since every account reaches loopback."""

    programs: Programs
    place: Path
    settings: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    port: int = field(default_factory=free_port)
    _password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    _process: Process | None = None

    @property
    def admin_url(self) -> str:
        """The program's database for the superuser, over the socket that only the server's account may enter."""
        return f"postgresql://postgres@/{DATABASE}?host={self._sockets}&port={self.port}"

    @property
    def process(self) -> Process:
        """The running server."""
        assert self._process is not None
        return self._process

    @property
    def is_up(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and not self._process.is_over

    @property
    def _data(self) -> Path:
        return self.place / "data"

    @property
    def _sockets(self) -> Path:
        return self.place / "socket"

    def url(self, login: str, port: int | None = None) -> str:
        """Return the address of the program's database for a login, or that of a wire before it."""
        return f"postgresql://{login}:{self._password}@127.0.0.1:{port or self.port}/{DATABASE}?sslmode=disable"

    async def make(self) -> None:
        """Make its data, start it, and create the logins and the empty database of the program."""
        self.place.mkdir(mode=0o711, exist_ok=True)
        self._sockets.mkdir(mode=0o700)
        self.programs.account.chown(self.place)
        self.programs.account.chown(self._sockets)
        options = ["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8"]
        command = [self.programs.bindir / "initdb", "-D", self._data, "--locale=C.UTF-8", "--no-instructions", *options]
        status, said = await asyncio.to_thread(self.programs.account.run, command)
        assert status == 0, said
        await self.start()
        connection = await asyncpg.connect(self._first_url)
        try:
            await connection.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{self._password}'")
            await connection.execute(f"CREATE ROLE {APP} LOGIN NOINHERIT PASSWORD '{self._password}'")
            await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
        finally:
            await connection.close()

    async def start(self) -> None:
        """Start it, and wait until it answers: recovery after a kill takes its time."""
        words = [word for setting in (*_SETTINGS, *self.settings) for word in ("-c", setting)]
        command = [
            self.programs.bindir / "postgres",
            "-D",
            self._data,
            "-p",
            str(self.port),
            "-k",
            self._sockets,
            *words,
        ]

        async def answers() -> bool:
            # It ends where a child of a killed server still holds its memory.
            if self._process is None or self._process.is_over:
                env = {**_ENVIRONMENT, **self.env}
                self._process = await start(command, self.place.parent / "postgres.log", env, self.programs.account)
            return await self._answers()

        assert await until(answers, _START_SECONDS), "Postgres does not start"

    async def kill(self) -> None:
        """Kill it and its children at once."""
        self.process.send_all(signal.SIGKILL)
        await self.process.running.wait()

    async def stop(self, sign: signal.Signals = signal.SIGINT) -> None:
        """Shut it down: SIGINT ends its connections, SIGQUIT leaves the rest to recovery."""
        if self.is_up:
            self.process.send_all(signal.SIGCONT)
            await self.process.end(sign)

    def freeze(self) -> None:
        """Let it stand still, though its connections stand."""
        self.process.send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_all(signal.SIGCONT)

    def fill_disk(self) -> Path:
        """Take all that is left of its file system; removing the file gives it back."""
        ballast = self.place / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(2**20))
        return ballast

    def remove(self) -> None:
        """Remove its data."""
        shutil.rmtree(self.place, ignore_errors=True)

    @property
    def _first_url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._sockets}&port={self.port}"

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self._first_url, timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True


def can_mount() -> str | None:
    """Return why no small file system can be made here."""
    return None if os.geteuid() == 0 else "needs root, to mount a small file system"
