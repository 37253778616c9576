"""Making a data directory, bringing its server up and starting the keeper: all need the start lock."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import agentapi_mcp
from agentapi_mcp.base.errors import StoreMismatchError, StoreUnavailableError
from agentapi_mcp.stores.postgres.server import locks
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount, current_account
from agentapi_mcp.stores.postgres.server.errors import check_space, startup_error
from agentapi_mcp.stores.postgres.server.paths import MAJOR, Home
from agentapi_mcp.stores.postgres.server.processes import RunningServer, find_server, send

OWNER = "agentapi_owner"
APP = "agentapi_app"
DATABASE = "agentapi"

_START_SECONDS = 90.0
_LOG_BYTES = 1 << 20
_KEEPER = (
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
    """Refuse data that another version of Postgres made; nothing is changed.

    Raises:
        StoreMismatchError: when the data is not ours to open.
    """
    try:
        found = (home.data / "PG_VERSION").read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        found = "of an unknown version"
    if found != str(MAJOR):
        raise StoreMismatchError(
            f"The data in {home.root} was made by a Postgres {found}, and this program runs Postgres {MAJOR}: set "
            "AGENTAPI_HOME to another directory, or run that Postgres yourself and set DATABASE_URL."
        )


def make_data(home: Home, bindir: Path, account: ServerAccount, start: int) -> None:
    """Make the data directory with its logins and database beside its place, then rename it there as a whole.

    Raises:
        StoreUnavailableError: when it cannot be made; nothing of it is left.
    """
    for old in home.base.glob("new-*"):
        shutil.rmtree(old, ignore_errors=True)
    check_space(home.root)
    new = home.base / f"new-{uuid.uuid4().hex}"
    try:
        new.mkdir(mode=0o700)
        account.chown(new)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--wal-segsize=1", "--no-instructions"]
        collation = ["--locale-provider=builtin", "--locale=C.UTF-8"]  # sorts alike on every system
        _run(home, account, start, [bindir / "initdb", "-D", new, *options, *collation])
        single = [bindir / "postgres", "--single", "-D", new, "-c", "exit_on_error=on", "postgres"]
        _run(home, account, start, single, _ROLES)
        new.rename(home.data)
        _flush_directory(home.base)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def is_up(home: Home) -> bool:
    """Tell whether a server takes connections at our socket."""
    server = find_server(str(home.data))
    return server is not None and _serves(server, home)


def bring_up(home: Home, bindir: Path, account: ServerAccount) -> None:
    """Start the server and wait until it takes connections.

    The server and all its children hold the server lock, so that what a killed one left behind is waited for.

    Raises:
        StoreUnavailableError: when it does not come up.
    """
    end = time.monotonic() + _START_SECONDS
    said_before = -1
    while time.monotonic() < end:
        server = find_server(str(home.data))
        if server is not None:
            if _serves(server, home):
                return
            if server.status in {"ready", "stopping"}:  # at a socket that is gone, or for nobody any more
                send(server.pid, signal.SIGINT)
        elif (lock := _take_server_lock(home)) is not None:
            try:
                if said_before >= 0:
                    raise startup_error(home.root, _read_log(home, said_before))
                said_before = _spawn(home, bindir, account, lock)
            finally:
                os.close(lock)
        locks.pause(0.01)
    raise StoreUnavailableError(
        f"The embedded database in {home.root} did not start within {_START_SECONDS:.0f} s: try again, or set "
        "DATABASE_URL."
    )


def start_reaper(home: Home, linger: float) -> None:
    """Start the keeper, unless there is one; it is born holding its lock."""
    mine = locks.open_lock(home.lock("keeper"))
    opened = [mine]
    try:
        if not locks.try_acquire(mine):
            return
        opened += [locks.open_lock(home.lock("users")), locks.open_lock(home.lock("start"))]
        package_root = Path(agentapi_mcp.__file__).parents[1]
        arguments = [package_root, home.data, str(linger), *map(str, (*opened[1:], mine))]
        python = [sys.executable, "-I", "-S", "-c", _KEEPER]
        current_account().start_detached([*python, *arguments], output=subprocess.DEVNULL, inherited=opened)
    finally:
        for fd in opened:
            os.close(fd)


def trim_log(home: Home) -> None:
    """Empty a log that has grown; its writers append, so they go on at its new end."""
    log = _open_log(home)
    try:
        if os.fstat(log).st_size > _LOG_BYTES:
            os.ftruncate(log, 0)
    finally:
        os.close(log)


def _serves(server: RunningServer, home: Home) -> bool:
    return server.status == "ready" and home.socket.exists()


def _run(home: Home, account: ServerAccount, start: int, arguments: list[str | Path], stdin: str = "") -> None:
    # The child holds the start lock too: if we are killed, the next starter waits until it is gone.
    status, output = account.run(arguments, stdin=stdin, inherited=[start])
    if status:
        # Explained first: the disk may be too full for the log.
        reason = startup_error(home.root, output)
        with os.fdopen(_open_log(home), "a", encoding="utf-8") as log:
            log.write(output)
        raise reason


def _take_server_lock(home: Home) -> int | None:
    fd = locks.open_lock(home.lock("server"))
    if locks.try_acquire(fd):
        return fd
    os.close(fd)
    return None


def _spawn(home: Home, bindir: Path, account: ServerAccount, lock: int) -> int:
    # Nobody holds the lock, so what these files speak of is gone; their numbers may be somebody else's now.
    for stale in (home.data / "postmaster.pid", home.socket, home.socket.with_name(f"{home.socket.name}.lock")):
        stale.unlink(missing_ok=True)
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    log = _open_log(home)
    try:
        said_before = os.fstat(log).st_size
        server = [bindir / "postgres", "-D", home.data, "-k", home.sockets, *settings]
        account.start_detached(server, output=log, inherited=[lock])
    finally:
        os.close(log)
    return said_before


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
