"""Public interface of the embedded Postgres: ensure that it runs, and release it."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from agentapi_mcp.base import locks
from agentapi_mcp.base.errors import StoreBusyError, StoreUnavailableError
from agentapi_mcp.stores.postgres.server import servers
from agentapi_mcp.stores.postgres.server.binaries import check_own_binaries, operator_binaries, own_binaries
from agentapi_mcp.stores.postgres.server.errors import mapped_os_errors
from agentapi_mcp.stores.postgres.server.paths import Home, default_home

__all__ = ["EmbeddedPostgres", "EmbeddedUrls", "default_home"]

# Longer than a start may take (servers.py), which the holder of the lock may be waiting for.
_LOCK_SECONDS = 120.0
_CLAIM_SECONDS = 1.0
_NOT_ON_WINDOWS = "This program does not run on Windows yet: use it in WSL."


@dataclass(frozen=True, slots=True)
class EmbeddedUrls:
    """Connection URLs of the server, for the owner (migrations) and for the application."""

    owner_url: str
    app_url: str


class ServerLease:
    """This process's shared lock on the server; the kernel releases it when the process exits."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd: int | None = None

    def acquire(self, path: Path) -> bool:
        """Register as a user; return False if already registered. A replaced home is registered anew."""
        if self._fd is not None and path.exists() and os.path.samestat(os.fstat(self._fd), path.stat()):
            return False
        self.release()
        fd = locks.open_lock(str(path))
        locks.acquire_shared(fd)
        os.utime(fd)  # the reaper sees by the mtime that there was a user, even one that has left
        self._fd = fd
        return True

    def release(self) -> None:
        """Unregister as a user."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A private Postgres below `home`, shared by all processes of this user with the same home."""

    home: Path
    linger: timedelta = timedelta(seconds=60)
    bindir: Path | None = None
    _lease: ServerLease = field(default_factory=ServerLease, init=False, repr=False, compare=False)

    def ensure(self) -> EmbeddedUrls:
        """Start the server if needed and register as its user; blocks. Call it again after a refused connection.

        Raises:
            StoreUnavailableError: it cannot be started; the message says what to do.
            StoreMismatchError: its data is of another version of Postgres.
        """
        if sys.platform == "win32":
            raise StoreUnavailableError(_NOT_ON_WINDOWS)
        home = Home(self.home.absolute())
        with mapped_os_errors(home.root):
            home = Home(home.root.resolve())
            account = home.account()
            home.prepare(account)
            with _starting(home) as start:
                new = self._lease.acquire(Path(home.lock("users")))
                try:
                    self._bring_up(home, start)
                except BaseException:
                    # A failed start must not leave a user behind, for whom the reaper would let a server run.
                    if new:
                        self._lease.release()
                    raise
        return EmbeddedUrls(_url(home, servers.OWNER), _url(home, servers.APP))

    def check_start(self) -> bool:
        """Return whether there is data; where there is none, check what a first start needs, without making anything.

        Raises:
            StoreUnavailableError: the first start could not make it; the message says what to do.
        """
        if sys.platform == "win32":
            raise StoreUnavailableError(_NOT_ON_WINDOWS)
        home = Home(self.home.absolute())
        with mapped_os_errors(home.root):
            if home.data.exists():
                return True
            account = home.account()
            home.check_reachable(account)
            if self.bindir is None:
                check_own_binaries()
            else:
                operator_binaries(self.bindir, account)
        return False

    def refuse_users(self) -> None:
        """Check that no other process uses the server.

        Raises:
            StoreBusyError: one does; the message says how to end it.
        """
        home = Home(self.home.absolute())
        with mapped_os_errors(home.root):
            if Path(home.lock("users")).exists():
                os.close(_claim(home))

    def remove_data(self) -> None:
        """Stop the server, and remove its data with all that was ever written; blocks.

        Raises:
            StoreBusyError: another process uses it.
            StoreUnavailableError: it cannot be removed; the message says why.
        """
        home = Home(self.home.absolute())
        with mapped_os_errors(home.root):
            if not home.data.exists():
                return
            home = Home(home.root.resolve())
            with _starting(home):
                claim = _claim(home)
                try:
                    servers.remove_data(home)
                finally:
                    os.close(claim)

    def release(self) -> None:
        """Unregister as a user; the server stops `linger` after its last user."""
        self._lease.release()

    def _bring_up(self, home: Home, start: int) -> None:
        servers.trim_log(home)
        with servers.stopped(home) as lock:
            log_offset = None if lock is None else self._start(home, start, lock)
        if log_offset is not None:
            servers.await_up(home, log_offset)
        servers.start_reaper(home, self.linger.total_seconds())

    def _start(self, home: Home, start: int, lock: int) -> int:
        if home.data.exists():
            servers.check_version(home)
        servers.remove_unfinished(home)
        account = home.take_data()
        home.open_to(account)
        bindir = operator_binaries(self.bindir, account) if self.bindir else own_binaries(home, account)
        if not home.data.exists():
            servers.make_data(home, bindir, account, start)
        home.keep_uid(account)
        return servers.spawn(home, bindir, account, lock)


def _claim(home: Home) -> int:
    """Take the users' lock for oneself; it is free again when its descriptor is closed."""
    users = locks.open_lock(home.lock("users"))
    # The keeper has it for a moment, to find out the same.
    if locks.acquire_within(users, _CLAIM_SECONDS):
        return users
    os.close(users)
    raise StoreBusyError(
        f"The program works with the database in {home.root}: end `serve`, quit the clients and other commands and run "
        "`agentapi-mcp stop`, then try again. Nothing was changed."
    )


@contextmanager
def _starting(home: Home) -> Generator[int]:
    start = locks.open_lock(home.lock("start"))
    try:
        if not locks.acquire_within(start, _LOCK_SECONDS):
            raise StoreUnavailableError(
                f"Another process has been starting or stopping the embedded database in {home.root} for more than "
                f"{_LOCK_SECONDS:.0f} s: end it, or set AGENTAPI_DATABASE_URL."
            )
        yield start
    finally:
        os.close(start)


def _url(home: Home, login: str) -> str:
    # Named, since variables of libpq in the environment, which are about other databases, would say it otherwise.
    own = "port=5432&sslmode=disable&target_session_attrs=any"
    return f"postgresql://{login}@/{servers.DATABASE}?host={quote(str(home.sockets))}&{own}"
