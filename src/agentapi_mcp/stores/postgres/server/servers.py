"""Create the data directory, start the server and the reaper; callers hold the start lock."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import agentapi_mcp
from agentapi_mcp.base import locks
from agentapi_mcp.base.errors import StoreMismatchError, StoreUnavailableError
from agentapi_mcp.stores.postgres.server.access import access_settings
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount, current_account, lent_account
from agentapi_mcp.stores.postgres.server.errors import check_space, startup_error
from agentapi_mcp.stores.postgres.server.paths import MAJOR, Home
from agentapi_mcp.stores.postgres.server.processes import RunningServer, find_server, send, stop_server

OWNER = "agentapi_owner"
APP = "agentapi_app"
DATABASE = "agentapi"

_UNFINISHED = "new-"
_START_SECONDS = 90.0
_ANSWER_SECONDS = 1.0
_SSL_REQUEST = (8).to_bytes(4, "big") + (80_877_103).to_bytes(4, "big")  # the shortest question there is
_LOG_BYTES = 1 << 20
_REAPER = (
    "import sys; sys.path.insert(0, sys.argv[1]); from agentapi_mcp.stores.postgres.server.reaper import main; "
    "main(sys.argv[2:])  # agentapi-mcp: stops the embedded Postgres after its last user"
)
_ROLES = f"""\
CREATE ROLE {OWNER} LOGIN NOSUPERUSER NOBYPASSRLS CREATEROLE
CREATE ROLE {APP} LOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT
CREATE DATABASE {DATABASE} OWNER {OWNER}
"""
# Durable and small: 16 MB with one connection, six processes. Errors go to the client, not to the log.
_SETTINGS = (
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "shared_buffers=16MB",
    "max_connections=40",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=64MB",
    "min_wal_size=8MB",
    "max_logical_replication_workers=0",
    "max_parallel_workers=0",
    "io_method=sync",
    "jit=off",
    "huge_pages=off",
    "autovacuum_naptime=5min",
    "autovacuum_worker_slots=2",
    "autovacuum_max_workers=1",
    "bgwriter_lru_maxpages=0",
    "checkpoint_timeout=15min",
    "log_checkpoints=off",
    "log_min_messages=log",
    "log_min_error_statement=panic",
    "timezone=UTC",
    "log_timezone=UTC",
)


def check_version(home: Home) -> None:
    """Reject data of another version of Postgres, without changing it.

    Raises:
        StoreMismatchError: the data is of another version.
    """
    try:
        found = (home.data / "PG_VERSION").read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        found = "of an unknown version"
    if found != str(MAJOR):
        raise StoreMismatchError(
            f"The data in {home.root} was made by a Postgres {found}, and this program runs Postgres {MAJOR}: set "
            "AGENTAPI_HOME to another directory, or run that Postgres yourself and set AGENTAPI_DATABASE_URL."
        )


def remove_unfinished(home: Home) -> None:
    """Remove what starts that were killed have left."""
    for old in home.base.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(old, ignore_errors=True)


def make_data(home: Home, bindir: Path, account: ServerAccount, start: int) -> None:
    """Create the data directory, logins and database under a temporary name, and rename it into place.

    Raises:
        StoreUnavailableError: it cannot be created; nothing is left behind.
    """
    check_space(home.root)
    new = home.base / f"{_UNFINISHED}{uuid.uuid4().hex}"
    data = new / "data"
    # initdb and the single-user mode refuse a uid without an account, the server does not.
    maker = lent_account(account.gid) if account.is_homes else account
    try:
        new.mkdir(mode=0o700)
        data.mkdir(mode=0o700)
        maker.chown(data)
        if account.is_homes:
            # Only that group may pass: other processes of the lent account cannot get at the data.
            os.chown(new, 0, account.gid)
            new.chmod(0o710)
        else:
            account.chown(new)
        # Trust, since only the server's account can enter the directory of the socket, and there is no TCP.
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--wal-segsize=1", "--no-instructions"]
        collation = ["--locale-provider=builtin", "--locale=C.UTF-8"]  # the same sort order on every system
        _run(home, maker, start, [bindir / "initdb", "-D", data, *options, *collation])
        # exit_on_error: by default, single-user mode goes on after a failed statement and exits with success.
        single = [bindir / "postgres", "--single", "-D", data, "-c", "exit_on_error=on", "postgres"]
        _run(home, maker, start, single, _ROLES)
        if account.is_homes:
            account.take(data)
        data.rename(home.data)
        # Makes the rename durable.
        _flush_directory(home.base)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def remove_data(home: Home) -> None:
    """Stop the server and remove its data, which has its name no more from the first moment on."""
    stop_server(str(home.data), _START_SECONDS)
    with stopped(home) as lock:
        if lock is None:
            raise _too_slow(home)
        gone = home.base / f"{_UNFINISHED}{uuid.uuid4().hex}"  # whose rest the next start removes
        home.data.rename(gone)
        _flush_directory(home.base)
        shutil.rmtree(gone)
        home.log.unlink(missing_ok=True)


@contextmanager
def stopped(home: Home) -> Generator[int | None]:
    """Wait until no server is left, and hold the server lock; None if one accepts connections.

    The server and its children hold the lock, so that a start waits for the children of a killed server.

    Raises:
        StoreUnavailableError: one neither accepts connections nor stops, or runs out of sight.
    """
    lock = _await_stopped(home)
    try:
        yield lock
    finally:
        if lock is not None:
            os.close(lock)


def spawn(home: Home, bindir: Path, account: ServerAccount, lock: int) -> int:
    """Start the server, which inherits the server lock; return where in the log it begins."""
    # The lock was free, so the processes in these files are gone; their pids may have been reused.
    for stale in (home.data / "postmaster.pid", home.socket, home.socket.with_name(f"{home.socket.name}.lock")):
        stale.unlink(missing_ok=True)
    settings = [word for setting in (*_SETTINGS, *access_settings(home, account)) for word in ("-c", setting)]
    log = _open_log(home)
    try:
        log_offset = os.fstat(log).st_size
        server = [bindir / "postgres", "-D", home.data, "-k", home.sockets, *settings]
        account.start_detached(server, output=log, inherited=[lock])
    finally:
        os.close(log)
    return log_offset


def await_up(home: Home, log_offset: int) -> None:
    """Wait until the server that was started accepts connections; we no longer hold the server lock.

    Raises:
        StoreUnavailableError: it does not start.
    """
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        server = find_server(str(home.data))
        if server is not None and _serves(server, home):
            return
        if server is None and (lock := _acquire_server_lock(home)) is not None:
            os.close(lock)  # it has exited: report what it logged
            raise startup_error(home.root, _read_log(home, log_offset))
        locks.pause(0.002)
    raise _too_slow(home)


def start_reaper(home: Home, linger: float) -> None:
    """Start the reaper unless one runs; it inherits its lock, already held."""
    reaper_lock = locks.open_lock(home.lock("keeper"))
    opened = [reaper_lock]
    try:
        if not locks.try_acquire(reaper_lock):
            return
        opened += [locks.open_lock(home.lock("users")), locks.open_lock(home.lock("start"))]
        package_root = Path(agentapi_mcp.__file__).parents[1]
        arguments = [package_root, home.data, str(linger), *map(str, (*opened[1:], reaper_lock))]
        # Isolated and without `site`: neither the environment nor site-packages adds code to it.
        python = [sys.executable, "-I", "-S", "-c", _REAPER]
        current_account().start_detached([*python, *arguments], output=subprocess.DEVNULL, inherited=opened)
    finally:
        for fd in opened:
            os.close(fd)


def trim_log(home: Home) -> None:
    """Truncate a large log; its writers open it in append mode, so they continue at the new end."""
    log = _open_log(home)
    try:
        if os.fstat(log).st_size > _LOG_BYTES:
            os.ftruncate(log, 0)
    finally:
        os.close(log)


def _await_stopped(home: Home) -> int | None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        server = find_server(str(home.data))
        if server is not None:
            if _serves(server, home):
                return None
            if server.status in {"ready", "stopping"}:  # its socket was removed, or it is shutting down
                send(server.pid, signal.SIGINT)
        elif (lock := _acquire_server_lock(home)) is not None:
            return lock
        elif _is_out_of_sight(home):
            raise StoreUnavailableError(
                f"The embedded database in {home.root} runs where this process cannot see it, as in another container "
                "or sandbox that has the same home: give each a home of its own by AGENTAPI_HOME, or one database by "
                "AGENTAPI_DATABASE_URL."
            )
        locks.pause(0.01)
    raise _too_slow(home)


def _is_out_of_sight(home: Home) -> bool:
    """Whether a server answers that has no process here: it is in another PID namespace."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(home.socket))
            # One that is being killed takes connections for a moment after its process cannot be told any more.
            connection.sendall(_SSL_REQUEST)
            answer = connection.recv(1)
        except OSError:
            return False
    # Looked at last: a server that starts has a process before it has a socket.
    return bool(answer) and find_server(str(home.data)) is None


def _too_slow(home: Home) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"The embedded database in {home.root} did not start within {_START_SECONDS:.0f} s: try again, or set "
        "AGENTAPI_DATABASE_URL."
    )


def _serves(server: RunningServer, home: Home) -> bool:
    return server.status == "ready" and home.socket.exists()


def _run(home: Home, account: ServerAccount, start: int, arguments: list[str | Path], stdin: str = "") -> None:
    # The child inherits the start lock: if we are killed, the next starter waits until the child has exited.
    status, output = account.run(arguments, stdin=stdin, inherited=[start])
    if status:
        # Build the message first: the disk may be too full to write the log.
        reason = startup_error(home.root, output)
        with os.fdopen(_open_log(home), "a", encoding="utf-8") as log:
            log.write(output)
        raise reason


def _acquire_server_lock(home: Home) -> int | None:
    fd = locks.open_lock(home.lock("server"))
    if locks.try_acquire(fd):
        return fd
    os.close(fd)
    return None


def _open_log(home: Home) -> int:
    return os.open(home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _read_log(home: Home, offset: int) -> str:
    with home.log.open("rb") as log:
        log.seek(offset)
        return log.read(65536).decode(errors="replace")


def _flush_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
