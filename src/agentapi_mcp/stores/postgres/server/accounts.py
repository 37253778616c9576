"""OS accounts, and child processes that run as them without our environment, terminal or MCP channel."""

import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from agentapi_mcp.base.errors import StoreUnavailableError

# Windows only imports this module.
# pyright: reportPossiblyUnboundVariable=false
if sys.platform != "win32":
    from pwd import getpwnam

# The shell exits at once, so that init adopts the child; "$@" needs no quoting.
_DETACHED = ("/bin/sh", "-c", '"$@" &', "sh")
# The environment may hold keys, and as root Postgres runs as another account.
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}
_UNPRIVILEGED = ("nobody", "daemon")


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """The account that runs the server: our own, or an unprivileged one when we are root.

    `is_homes` says that its uid is the home's alone; the machine has no account with it.
    """

    uid: int
    gid: int
    is_homes: bool = False

    @property
    def is_other(self) -> bool:
        """Whether this is not our own account."""
        return self.uid != os.geteuid()

    def chown(self, path: Path) -> None:
        """Change the owner of a file or directory, if this is not our own account."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def take(self, top: Path) -> None:
        """Change the owner of a directory and all in it, from which the previous owner may try to lead us elsewhere.

        Each directory is closed before what is in it is looked at. A file with a second name, which may be one of
        another directory, keeps its owner.
        """
        for _, directories, files, fd in os.fwalk(top, onerror=_fail):
            os.fchown(fd, self.uid, self.gid)
            os.fchmod(fd, 0o700)
            for name in (*directories, *files):
                with suppress(FileNotFoundError):
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if not stat.S_ISDIR(found.st_mode) and found.st_nlink == 1:
                        os.chown(name, self.uid, self.gid, dir_fd=fd, follow_symlinks=False)

    def run(self, command: Sequence[str | Path], *, stdin: str = "", inherited: Sequence[int] = ()) -> tuple[int, str]:
        """Run a program; return its exit status and its output. It inherits the given file descriptors."""
        done = subprocess.run(  # noqa: S603  # fixed command, no shell
            command,
            check=False,
            text=True,
            errors="replace",
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A Ctrl-C in our terminal goes to its whole process group; the child must not get it.
            start_new_session=True,
            pass_fds=inherited,
            cwd="/",
            env=_ENVIRONMENT,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            # Otherwise the child would keep root's supplementary groups.
            extra_groups=[] if self.is_other else None,
        )
        return done.returncode, done.stdout

    def start_detached(self, command: Sequence[str | Path], *, output: int, inherited: Sequence[int]) -> None:
        """Start a program that outlives this process, with its output in a file and the given descriptors inherited."""
        subprocess.run(  # noqa: S603  # fixed command; the shell passes the arguments on unparsed
            [*_DETACHED, *command],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=inherited,
            cwd="/",
            env=_ENVIRONMENT,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
        )


def current_account() -> ServerAccount:
    """Return the account that this process runs as."""
    return ServerAccount(os.geteuid(), os.getegid())


def lent_account(gid: int) -> ServerAccount:
    """Return an existing unprivileged account with another group, for programs that refuse a uid without an account.

    The kernel lets other processes of that account neither trace those with this group nor look into them.

    Raises:
        StoreUnavailableError: there is no such account.
    """
    for name in _UNPRIVILEGED:
        with suppress(KeyError):
            return ServerAccount(getpwnam(name).pw_uid, gid)
    raise StoreUnavailableError(
        "Postgres refuses to run as root, and this machine has no account 'nobody' to make its data: "
        "run as another user, or set AGENTAPI_DATABASE_URL."
    )


def _fail(error: OSError) -> NoReturn:
    raise error
