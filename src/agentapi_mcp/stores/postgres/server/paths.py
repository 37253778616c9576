"""Where the embedded Postgres lives on disk, and whose it is."""

import hashlib
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount, current_account

# On Windows this can be imported, and nothing of it is called.
# pyright: reportPossiblyUnboundVariable=false
if sys.platform != "win32":
    from pwd import getpwnam

MAJOR = 18
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_UNPRIVILEGED = ("nobody", "daemon")


def default_home(environ: Mapping[str, str]) -> Path:
    """Return the directory that is ours when AGENTAPI_HOME is not set."""
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/agentapi-mcp")
    user_home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "darwin":
        return user_home / "Library" / "Application Support" / "agentapi-mcp"
    shared = Path(environ.get("XDG_DATA_HOME", ""))
    return (shared if shared.is_absolute() else user_home / ".local" / "share") / "agentapi-mcp"


@dataclass(frozen=True, slots=True)
class Home:
    """The places inside one home; as root the directories between are root's, so that no account can swap ours."""

    root: Path

    @property
    def base(self) -> Path:
        """All of one major version."""
        return self.root / f"pg{MAJOR}"

    @property
    def data(self) -> Path:
        """The data directory: there as a whole or not at all."""
        return self.base / "data"

    @property
    def bin(self) -> Path:
        """Our copies of the binaries, a directory for each version."""
        return self.root / "bin"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.base / "pg.log"

    @property
    def sockets(self) -> Path:
        """The private directory of the socket: in the home, or a short one where that path is too long."""
        inside = self.base / "socket"
        if len(os.fsencode(inside / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES and "," not in str(inside):
            return inside
        # Not TMPDIR, which may differ between the users of one server.
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path("/tmp").resolve() / f"agentapi-{digest}"  # noqa: S108  # private, owner-checked

    @property
    def socket(self) -> Path:
        """The socket itself."""
        return self.sockets / _SOCKET_NAME

    def lock(self, name: str) -> str:
        """Return the path of one of our lock files: start, users, server, keeper."""
        return str(self.base / f"{name}.lock")

    def account(self) -> ServerAccount:
        """Look whose server this is: its data's owner, else the home's, else an unprivileged account."""
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
            "run as another user, or set DATABASE_URL."
        )

    def prepare(self, account: ServerAccount) -> None:
        """Make the directories that hold the locks; of what was there, only a home with nothing but ours is opened.

        Raises:
            StoreUnavailableError: when the account could not come there; nothing is made then.
        """
        mode = 0o711 if account.is_other else 0o700
        if not self.base.is_dir():
            self._check_reachable(account, [place for place in self.root.parents if place.is_dir()])
        for place in reversed(self.root.parents):
            if not place.is_dir():
                make_directory(place, mode)
        if not self.root.is_dir() or (account.is_other and self._holds_only_ours()):
            make_directory(self.root, mode)
        make_directory(self.base, mode)

    def open_to(self, account: ServerAccount) -> None:
        """Make the socket's directory, and check that the account can come to all of ours; needs the start lock.

        Raises:
            StoreUnavailableError: when it cannot, or when the directory is not private.
        """
        self._check_reachable(account, [self.base, *self.base.parents])
        make_private(self.sockets, account)

    def _holds_only_ours(self) -> bool:
        return {entry.name for entry in self.root.iterdir()} <= {self.bin.name, self.base.name}

    def _check_reachable(self, account: ServerAccount, places: list[Path]) -> None:
        if account.is_other and (closed := _find_closed(places[::-1], account)):
            raise StoreUnavailableError(
                f"Postgres cannot run as root, and the account lent to it (uid {account.uid}) may not enter {closed}: "
                "set AGENTAPI_HOME to a directory that it can reach, such as /var/lib/agentapi-mcp, or set "
                "DATABASE_URL."
            )


def _find_closed(directories: list[Path], account: ServerAccount) -> str:
    # The kernel is asked: the bits of the mode do not tell all.
    script = 'for d; do cd -- "$d" 2>/dev/null || { printf %s "$d"; exit; }; done'
    return account.run(["/bin/sh", "-c", script, "sh", *directories])[1]


def make_directory(path: Path, mode: int) -> None:
    """Make a directory, or finish making it; one of another owner is left as it is."""
    path.mkdir(exist_ok=True)
    found = path.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)


def make_private(path: Path, account: ServerAccount) -> None:
    """Make a directory that only the account can enter, or check that it is one."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    known = found.st_uid in {account.uid, os.geteuid()}
    if not stat.S_ISDIR(found.st_mode) or not known or stat.S_IMODE(found.st_mode) & 0o077:
        raise StoreUnavailableError(
            f"The directory of the database's socket, {path}, is not private to uid {account.uid}: remove it, or set "
            "AGENTAPI_HOME to a directory with a shorter path."
        )
    account.chown(path)
