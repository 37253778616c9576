"""Paths and ownership of the embedded Postgres."""

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount, current_account
from agentapi_mcp.stores.postgres.server.own_uids import UnusedUids

MAJOR = 18
_SOCKET_NAME = ".s.PGSQL.5432"
# The size of `sun_path` is 104 on macOS and 108 on Linux, with the terminating NUL.
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_ROOTS_HOME = Path("/var/lib/agentapi-mcp")
_SHARED_SERVERS = "run"  # the directory of resident/place.py


def default_home(environ: Mapping[str, str]) -> Path:
    """Return the default home directory, for when AGENTAPI_HOME is not set."""
    if sys.platform != "win32" and os.geteuid() == 0:
        return _ROOTS_HOME
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

    @property
    def uid_file(self) -> Path:
        """Where the uid of a home of root's is kept."""
        return self.base / "uid"

    def account(self) -> ServerAccount:
        """Return the account that runs the server: as root, the home's owner, or a uid of its own in a home of root's.

        Raises:
            StoreUnavailableError: no uid is left for it.
        """
        if os.geteuid() != 0:
            return current_account()
        for place in (self.root, self.base):
            if place.exists() and (found := place.stat()).st_uid != 0:
                return ServerAccount(found.st_uid, found.st_gid)
        return self._own_account(self._kept_uid() or self._find_uid())

    def take_data(self) -> ServerAccount:
        """Return the account that starts the server, which owns the data from then on; no server may run.

        Data of an earlier version of this program belongs to an account of the machine. The uid that was kept may also
        have been given to somebody since, or a backup been unpacked on another machine.

        Raises:
            StoreUnavailableError: no uid is left for it.
        """
        account = self.account()
        if account.is_homes:
            if not UnusedUids().has(account.uid):
                account = self._own_account(self._find_uid())
            previous = self.data.stat().st_uid if self.data.exists() else account.uid
            self._remove_sockets(account, previous)
            if self.data.exists() and not account.uid == previous == self._kept_uid():
                account.take(self.data)
        return account

    def keep_uid(self, account: ServerAccount) -> None:
        """Write down the uid of a home of root's, for the next start."""
        if account.is_homes and self._kept_uid() != account.uid:
            write_file(self.uid_file, f"{account.uid}\n")

    def _own_account(self, uid: int) -> ServerAccount:
        return ServerAccount(uid, uid, is_homes=True)

    def _kept_uid(self) -> int | None:
        try:
            kept = self.uid_file.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return None
        return int(kept) if kept.isascii() and kept.isdecimal() else None

    def _find_uid(self) -> int:
        return UnusedUids().find(self.root, self._uids_of_other_homes())

    def _uids_of_other_homes(self) -> Iterator[int]:
        """Yield the owners of the data of the homes beside this one, and of root's usual home."""
        with suppress(OSError):
            for home in (_ROOTS_HOME, *self.root.parent.iterdir()):
                if home != self.root:
                    with suppress(OSError):
                        yield Home(home).data.lstat().st_uid

    def _remove_sockets(self, account: ServerAccount, previous: int) -> None:
        """Remove the socket's directory of a previous account, which could put other sockets there."""
        with suppress(FileNotFoundError):
            found = self.sockets.lstat()
            # In the home only we made it. In /tmp anybody could have: one of a stranger is left, and refused later.
            ours = self.sockets.parent == self.base or found.st_uid == previous
            if ours and found.st_uid != account.uid and stat.S_ISDIR(found.st_mode):
                shutil.rmtree(self.sockets)

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
        return {entry.name for entry in self.root.iterdir()} <= {self.bin.name, self.base.name, _SHARED_SERVERS}

    def _check_reachable(self, account: ServerAccount, places: list[Path]) -> None:
        if account.is_other and (closed := _find_closed(places[::-1], account)):
            raise StoreUnavailableError(
                f"Postgres cannot run as root, and what it runs as instead (uid {account.uid}) may not enter {closed}: "
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


def write_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that is there completely or not at all; nobody but us may write into its directory."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    new.rename(path)
