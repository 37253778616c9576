"""Where a resident server is found: a private directory of the home, with a socket, a lock and a log for each of them.

The lock is the only truth: the kernel frees it when the server ends, however it ends. There is no pid file, and nobody
asks a server whether it lives.
"""

import os
import stat
import sys
import time
from _blake2 import blake2b
from collections.abc import Iterator

from agentapi_mcp.base.home_names import ENDING, FINGERPRINT_DIGITS, LOCK, LOG, RUN_KEY, SOCKET, STOPPED
from agentapi_mcp.base.locks import open_lock, try_acquire
from agentapi_mcp.resident.environment import PACKAGE, Environment

# The size of `sun_path` is 104 on macOS and 108 on Linux, with the terminating NUL.
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_KEY_BYTES = 32
_LOG_BYTES, _LAST_BYTES = 1 << 20, 1 << 16
_NO_HOME = "AGENTAPI_HOME is no absolute path"


class NoPlaceError(Exception):
    """There can be no resident server here; the message says why, and `path` is what its owner can close to others."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        super().__init__(reason)
        self.path = path


class Place:
    """The files of one resident server."""

    def __init__(self, run: str, fingerprint: str) -> None:
        self.run = run
        self.fingerprint = fingerprint
        self.base = os.path.join(run, fingerprint)
        self.socket = self.base + SOCKET
        self.log = self.base + LOG

    @property
    def was_stopped(self) -> bool:
        """Whether somebody stopped the server, and nobody has asked for one since."""
        return os.path.exists(self.base + STOPPED)

    def mark_stopped(self) -> None:
        """Let no bridge start the server again before its client asks for something."""
        os.close(os.open(self.base + STOPPED, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))

    def clear_mark(self) -> None:
        """Forget that the server was stopped."""
        _remove(self.base + STOPPED)

    def try_lock(self) -> int | None:
        """Take the lock and return its descriptor; None while a server, or a bridge that starts one, has it."""
        fd = open_lock(self.base + LOCK)
        # A file that was swept away meanwhile is not the one that the next process will lock.
        if try_acquire(fd) and _is_at(fd, self.base + LOCK):
            return fd
        os.close(fd)
        return None

    def note_ending(self, told: bytes) -> None:
        """Say, until this process has ended, that it ends, and what it told of itself.

        For whoever has the lock, and is about to free it before the last turns have ended.
        """
        path = f"{self.base}.{os.getpid()}{ENDING}"
        fd = open_lock(path + ".new")  # under its name it is locked, or left over
        try_acquire(fd)
        # The descriptor stays open: the kernel frees the lock when the process ends.
        _write(fd, told)  # on a full disk the lock tells what matters
        os.rename(path + ".new", path)

    def is_locked(self) -> bool:
        """Whether there is a server, or is about to be one."""
        fd = self.try_lock()
        if fd is not None:
            os.close(fd)
        return fd is None

    def open_log(self) -> int:
        """Open the log for what the server prints; a large one begins anew."""
        fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        trim(fd)
        return fd

    def log_size(self) -> int:
        """Return how long the log is by now."""
        try:
            return os.stat(self.log).st_size
        except OSError:
            return 0

    def last_words(self, since: int) -> str:
        """Return the last line of the log that was written after this offset, or that there is none."""
        return self.last_line(since) or f"its log, {self.log}, does not say why."

    def last_line(self, since: int) -> str:
        """Return the last line of the log that was written after this offset; empty if there is none."""
        try:
            with open(self.log, "rb", buffering=0) as file:
                file.seek(max(since, self.log_size() - _LAST_BYTES))
                text = file.read(_LAST_BYTES).decode(errors="replace")
        except OSError:
            text = ""
        lines = [line for line in map(_visible, text.splitlines()) if line.strip()]
        return lines[-1].removeprefix("agentapi-mcp: ") if lines else ""

    def inode(self) -> tuple[int, int] | None:
        """Return what tells the socket at this path from any other; None if there is none."""
        try:
            found = os.stat(self.socket)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def has_program(self) -> bool:
        """Whether the program is still installed where it was started from."""
        return os.path.exists(os.path.join(PACKAGE, "__init__.py"))

    def remove_socket(self) -> None:
        """Remove the socket; for whoever has the lock."""
        _remove(self.socket)


def trim(log: int) -> None:
    """Empty a log that has become large; its writers append, and so go on at the new end."""
    if os.fstat(log).st_size > _LOG_BYTES:
        os.ftruncate(log, 0)


def find_place(environment: Environment, toolsets: str | None) -> Place:
    """Return the place of the resident server for this environment, and make the directory for it.

    Raises:
        NoPlaceError: there can be none here.
    """
    home = environment.home()
    if not home:
        raise NoPlaceError(_NO_HOME)
    try:
        run = _make_run(home)
        key = _key(run)
    except OSError as exc:
        raise NoPlaceError(_unusable(exc, home)) from None
    return Place(run, environment.fingerprint(home, key, os.fsencode(toolsets or "")))


def check_place(environment: Environment) -> None:
    """Check, without making anything, that a client of this environment finds or makes a place.

    Raises:
        NoPlaceError: it does not.
    """
    home = environment.home()
    if not home:
        raise NoPlaceError(_NO_HOME)
    try:
        _check_home(home)
        _check_run(run_of(home))
    except FileNotFoundError:
        return  # the first bridge makes them
    except OSError as exc:
        raise NoPlaceError(_unusable(exc, home)) from None


def places(environment: Environment) -> list[Place]:
    """List the places of the home that have, or had, a resident server; none is made."""
    run = run_of(environment.home())
    try:
        names = sorted(os.listdir(run))
    except OSError:
        return []
    return [Place(run, name.removesuffix(LOCK)) for name in names if _is_lock(name)]


class Ending:
    """A server that has freed its lock, and lets its last turns end."""

    def __init__(self, path: str) -> None:
        self.path = path
        base, number, _ = path.rsplit(".", 2)
        self.place = Place(*os.path.split(base))
        self.pid = int(number)

    def told(self) -> bytes:
        """Return what it told of itself when it began to end; nothing if it has ended."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def age(self) -> float:
        """Return for how many seconds it has been ending."""
        try:
            return time.time() - os.stat(self.path).st_mtime
        except FileNotFoundError:
            return 0

    def is_over(self) -> bool:
        """Whether it has ended; what it left is removed."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        is_over = try_acquire(fd)
        if is_over:
            _remove(self.path)
        os.close(fd)
        return is_over


def endings(environment: Environment) -> list[Ending]:
    """List the servers of the home that are about to end."""
    run = run_of(environment.home())
    try:
        names = sorted(os.listdir(run))
    except OSError:
        return []
    found = (Ending(os.path.join(run, name)) for name in names if name.endswith(ENDING))
    return [ending for ending in found if not ending.is_over()]


def siblings(place: Place) -> Iterator[Place]:
    """Yield the other resident servers of the home that run."""
    for name in sorted(os.listdir(place.run)):
        other = Place(place.run, name.removesuffix(LOCK))
        if _is_lock(name) and other.fingerprint != place.fingerprint and other.is_locked():
            yield other


def sweep(place: Place) -> None:
    """Remove what servers have left that run no more: each upgrade and each change of a setting leaves some files."""
    for name in os.listdir(place.run):
        if name.endswith(ENDING):
            Ending(os.path.join(place.run, name)).is_over()
        other = Place(place.run, name.removesuffix(LOCK))
        if not _is_lock(name) or other.fingerprint == place.fingerprint or other.was_stopped:
            continue
        fd = other.try_lock()
        if fd is not None:
            for ending in (SOCKET, LOG, LOCK):
                _remove(other.base + ending)
            os.close(fd)


def run_of(home: bytes) -> str:
    """Return the directory for sockets: in the home, or a short one where that path is too long for a socket."""
    run = os.path.join(os.fsdecode(home), "run")
    if len(os.fsencode(run)) + 1 + FINGERPRINT_DIGITS + len(SOCKET) <= _SOCKET_PATH_BYTES:
        return run
    # Not TMPDIR, which may differ between the clients of one home.
    return f"{os.path.realpath('/tmp')}/agentapi-run-{blake2b(home, digest_size=8).hexdigest()}"  # noqa: S108  # private, checked


def _make_run(home: bytes) -> str:
    _make_home(home)
    run = run_of(home)
    try:
        os.mkdir(run, 0o700)
    except FileExistsError:
        _check_run(run)
    return run


def _check_run(run: str) -> None:
    # Not `stat`: in /tmp, a symbolic link could lead to a directory of another account.
    found = os.lstat(run)
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
        path = run if found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode) else None
        raise NoPlaceError(f"{run} is not a private directory of this user", path)


def _make_home(home: bytes) -> None:
    try:
        _check_home(home)
    except FileNotFoundError:
        # As root, Postgres' account must get through.
        _make_parents(home, 0o711 if os.geteuid() == 0 else 0o700)


def _check_home(home: bytes) -> None:
    if os.stat(home).st_uid != os.geteuid():
        raise NoPlaceError(f"the home {os.fsdecode(home)} belongs to another account")


def _make_parents(place: bytes, mode: int) -> None:
    if not os.path.isdir(place):
        _make_parents(os.path.dirname(place), mode)
        try:
            os.mkdir(place, mode)
        except FileExistsError:
            return
        os.chmod(place, mode)  # whatever the umask


def _key(run: str) -> bytes:
    """Return the random key of the home's fingerprints; the first bridge makes it."""
    path = os.path.join(run, RUN_KEY)
    for _ in range(2):
        try:
            # Not blocking, since what is there may be a pipe.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb", buffering=0) as file:
                key = file.read(_KEY_BYTES + 1) or b""
        except FileNotFoundError:
            _make_key(path)
            continue
        if len(key) == _KEY_BYTES:
            return key
        break
    raise NoPlaceError(f"{path} is no key: remove it")


def _make_key(path: str) -> None:
    """Make the key whole or not at all, and once, however many bridges start."""
    new = f"{path}.{os.getpid()}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb", buffering=0) as file:
            file.write(os.urandom(_KEY_BYTES))
        os.link(new, path)
    except FileExistsError:
        return  # another bridge was faster
    finally:
        _remove(new)


def _visible(line: str) -> str:
    return "".join(character for character in line if character.isprintable())


def _unusable(exc: OSError, home: bytes) -> str:
    return f"{os.fsdecode(exc.filename or home)} cannot be used ({exc.strerror})"


def _is_lock(name: str) -> bool:
    return name.endswith(LOCK) and len(name) == FINGERPRINT_DIGITS + len(LOCK)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _write(fd: int, data: bytes) -> None:
    """Write to a file, which stays open, if there is space."""
    try:
        with open(fd, "wb", buffering=0, closefd=False) as file:
            file.write(data)
    except OSError:
        return


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
