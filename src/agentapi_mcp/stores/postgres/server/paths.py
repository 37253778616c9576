"""Paths and ownership of the embedded Postgres."""

import hashlib
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount, current_account

# Windows only imports this module.
# pyright: reportPossiblyUnboundVariable=false
if sys.platform != "win32":
    from pwd import getpwnam

MAJOR = 18
_SOCKET_NAME = ".s.PGSQL.5432"
# The size of `sun_path` is 104 on macOS and 108 on Linux, with the terminating NUL.
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_UNPRIVILEGED = ("nobody", "daemon")


def default_home(environ: Mapping[str, str]) -> Path:
    """Return the default home directory, for when AGENTAPI_HOME is not set."""
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/agentapi-mcp")
    user_home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "darwin":
        return user_home / "Library" / "Application Support" / "agentapi-mcp"
    shared = Path(environ.get("XDG_DATA_HOME", ""))
    return (shared if shared.is_absolute() else user_home / ".local" / "share") / "agentapi-mcp"


@dataclass(frozen=True, slots=True)
class Home:
    """Paths inside one home; for root, the parent directories belong to root so that no account can replace ours."""

    root: Path

    @property
    def base(self) -> Path:
        """The directory of one major version."""
        return self.root / f"pg{MAJOR}"

    @property
    def data(self) -> Path:
        """The data directory; it is created atomically."""
        return self.base / "data"

    @property
    def bin(self) -> Path:
        """Our copies of the binaries, one directory per version."""
        return self.root / "bin"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.base / "pg.log"

    @property
    def sockets(self) -> Path:
        """The private directory of the socket: in the home, or under /tmp where that path is too long."""
        inside = self.base / "socket"
        # Postgres splits unix_socket_directories at commas.
        if len(os.fsencode(inside / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES and "," not in str(inside):
            return inside
        # Not TMPDIR, which may differ between the users of one server.
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path("/tmp").resolve() / f"agentapi-{digest}"  # noqa: S108  # private, owner-checked

    @property
    def socket(self) -> Path:
        """The path of the server's Unix socket."""
        return self.sockets / _SOCKET_NAME

    def lock(self, name: str) -> str:
        """Return the path of a lock file: start, users, server or keeper (the reaper's)."""
        return str(self.base / f"{name}.lock")

    def account(self) -> ServerAccount:
        """Return the account that runs the server: the data's owner, else the home's, else an unprivileged one."""
        if os.geteuid() != 0:
            return current_account()
        for place in (self.data, self.root):
            if place.exists() and (found := place.stat()).st_uid != 0:
                return ServerAccount(found.st_uid, found.st_gid)
        for name in _UNPRIVILEGED:
            try:
                entry = getpwnam(name)
            except KeyError:
                continue
            return ServerAccount(entry.pw_uid, entry.pw_gid)
        raise StoreUnavailableError(
            "Postgres refuses to run as root, and this machine has no account 'nobody' to lend it: "
            "run as another user, or set AGENTAPI_DATABASE_URL."
        )

    def prepare(self, account: ServerAccount) -> None:
        """Create the directories of the locks; permissions of an existing home change only if all in it is ours.

        Raises:
            StoreUnavailableError: the account cannot reach the home; nothing is created then.
        """
        mode = 0o711 if account.is_other else 0o700
        if not self.base.is_dir():
            self.check_reachable(account)
        for place in reversed(self.root.parents):
            if not place.is_dir():
                make_directory(place, mode)
        if not self.root.is_dir() or (account.is_other and self._holds_only_ours()):
            make_directory(self.root, mode)
        make_directory(self.base, mode)

    def open_to(self, account: ServerAccount) -> None:
        """Create the socket's directory, and check that the account can reach every directory; needs the start lock.

        Raises:
            StoreUnavailableError: it cannot, or the directory is not private.
        """
        self._check_reachable(account, [self.base, *self.base.parents])
        make_private(self.sockets, account)

    def check_reachable(self, account: ServerAccount) -> None:
        """Check that the account can reach the directories that the home is, or will be, in.

        Raises:
            StoreUnavailableError: it cannot.
        """
        self._check_reachable(account, [place for place in self.root.parents if place.is_dir()])

    def _holds_only_ours(self) -> bool:
        return {entry.name for entry in self.root.iterdir()} <= {self.bin.name, self.base.name}

    def _check_reachable(self, account: ServerAccount, places: list[Path]) -> None:
        if account.is_other and (closed := _find_closed(places[::-1], account)):
            raise StoreUnavailableError(
                f"Postgres cannot run as root, and the account lent to it (uid {account.uid}) may not enter {closed}: "
                "set AGENTAPI_HOME to a directory that it can reach, such as /var/lib/agentapi-mcp, or set "
                "AGENTAPI_DATABASE_URL."
            )


def _find_closed(directories: list[Path], account: ServerAccount) -> str:
    # Mode bits do not show ACLs and security modules, so the kernel is asked.
    script = 'for d; do cd -- "$d" 2>/dev/null || { printf %s "$d"; exit; }; done'
    return account.run(["/bin/sh", "-c", script, "sh", *directories])[1]


def make_directory(path: Path, mode: int) -> None:
    """Create a directory, or set the mode of an existing one; one of another owner is not changed."""
    path.mkdir(exist_ok=True)
    found = path.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)


def make_private(path: Path, account: ServerAccount) -> None:
    """Create a directory that only the account can enter, or check an existing one."""
    path.mkdir(mode=0o700, exist_ok=True)
    # Not `stat`: in /tmp, a symbolic link could lead to a directory of another account.
    found = path.lstat()
    known = found.st_uid in {account.uid, os.geteuid()}
    if not stat.S_ISDIR(found.st_mode) or not known or stat.S_IMODE(found.st_mode) & 0o077:
        raise StoreUnavailableError(
            f"The directory of the database's socket, {path}, is not private to uid {account.uid}: remove it, or set "
            "AGENTAPI_HOME to a directory with a shorter path."
        )
    account.chown(path)
