"""OS accounts, and child processes that run as them without our environment, terminal or MCP channel."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The shell exits at once, so that init adopts the child; "$@" needs no quoting.
_DETACHED = ("/bin/sh", "-c", '"$@" &', "sh")
# The environment may hold keys, and as root Postgres runs as another account.
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """The account that runs the server: our own, or an unprivileged one when we are root."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether this is not our own account."""
        return self.uid != os.geteuid()

    def chown(self, path: Path) -> None:
        """Change the owner of a file or directory, if this is not our own account."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

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
