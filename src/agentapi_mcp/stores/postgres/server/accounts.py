"""Accounts, and the children that run as them: none inherits our environment, terminal, or channel of MCP."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The detached child belongs to init; "$@" needs no quoting of anything.
_DETACHED = ("/bin/sh", "-c", '"$@" &', "sh")
# The environment may hold keys, and as root Postgres runs as another account.
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """Who runs a child: we, or as root somebody who may do nothing else."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Tell whether this is not our own account."""
        return self.uid != os.geteuid()

    def chown(self, path: Path) -> None:
        """Give a file or directory to this account, where that takes a change."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def run(self, command: Sequence[str | Path], *, stdin: str = "", inherited: Sequence[int] = ()) -> tuple[int, str]:
        """Run a program to its end; return its status and all that it wrote. It inherits the files lent to it."""
        done = subprocess.run(  # noqa: S603  # the words are ours, and no shell reads them
            command,
            check=False,
            text=True,
            errors="replace",
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=inherited,
            cwd="/",
            env=_ENVIRONMENT,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
        )
        return done.returncode, done.stdout

    def start_detached(self, command: Sequence[str | Path], *, output: int, inherited: Sequence[int]) -> None:
        """Start a program that outlives us, writing to an open file and inheriting the files lent to it."""
        subprocess.run(  # noqa: S603  # the words are ours; the shell passes them on unread
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
