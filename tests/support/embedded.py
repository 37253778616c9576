"""Processes that share an embedded Postgres, and what they leave in the process table and on disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import agentapi_mcp
from agentapi_mcp.stores.postgres.server.processes import RunningServer, find_server, send
from tests.support.waiting import wait_until

PROGRAM = Path(__file__).with_name("embedded_user.py")
SOURCE = Path(agentapi_mcp.__file__).parents[1]


@dataclass
class User:
    """One process that uses the database of a home."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def tell(self, *words: str) -> None:
        """Ask for something and do not wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> Any:  # noqa: ANN401  # whatever the program wrote
        """Read the next answer; a program that died is reported with what it said last."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=20)[1].decode()
        return json.loads(line)

    def ask(self, *words: str) -> Any:  # noqa: ANN401  # whatever the program wrote
        """Ask for something and wait for the answer."""
        self.tell(*words)
        return self.hear()

    def leave(self) -> tuple[bytes, bytes]:
        """End its input and return all else that it and its children wrote; waits until nobody holds its pipes."""
        return self.process.communicate(timeout=20)

    def end(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """End it by a signal."""
        self.process.send_signal(sign)
        self.process.communicate(timeout=20)


@dataclass
class SharedHome:
    """A home and the processes that a test starts on it."""

    path: Path
    uid: int | None = None
    linger: float = 60.0
    bindir: str = ""
    python: str = sys.executable
    packages: list[Path] = field(default_factory=list[Path])
    source: Path = SOURCE
    program: Path = PROGRAM
    environment: dict[str, str] = field(default_factory=dict[str, str])
    users: list[User] = field(default_factory=list[User])

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.path / "pg18" / "data"

    def user(self) -> User:
        """Start a process that has asked for nothing yet."""
        process = subprocess.Popen(  # noqa: S603  # a program of the tests
            [self.python, self.program, self.path, str(self.linger), self.bindir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PYTHONPATH": ":".join(map(str, (self.source, *self.packages))), "PATH": "/usr/bin:/bin"}
            | self.environment,
            user=self.uid,
            group=self.uid,
            extra_groups=None if self.uid is None else [],
        )
        self.users.append(User(process))
        return self.users[-1]

    def server(self) -> RunningServer:
        """Return the running server."""
        found = find_server(str(self.data))
        assert found is not None
        return found

    def pids(self, *words: str) -> list[int]:
        """List the living processes whose command line has this home and all of some words, users excepted."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
            except OSError:
                continue
            mine = os.fsencode(self.path) + b"/" in line
            if mine and all(word.encode() in line for word in words):
                found.append(int(entry.name))
        return found

    def reaper(self) -> int:
        """Wait for the one reaper: a shell starts it, and while the kernel swaps programs it has no command line."""
        (reaper,) = wait_until(lambda: self.pids("server.reaper"))
        return reaper

    def residents(self) -> list[int]:
        """List the processes that work in this home: a killed server's children have other names and end after it."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            try:
                place = (entry / "cwd").readlink() if entry.name.isdecimal() else Path("/")
            except OSError:
                continue
            if place.is_relative_to(self.path):
                found.append(int(entry.name))
        return found

    def listing(self) -> dict[str, tuple[int, int]]:
        """Say what is there, with modes and sizes, without locks and the log."""
        return {
            str(place.relative_to(self.path)): (place.lstat().st_mode, place.lstat().st_size if place.is_file() else 0)
            for place in self.path.rglob("*")
            if place.suffix not in {".lock", ".log"}
        }

    def wait_until_gone(self) -> None:
        """Wait until neither server nor reaper is left, nor a child of theirs."""
        wait_until(lambda: not self.pids() and not self.residents())

    def kill_everything(self) -> None:
        """End all that was started on this home."""
        for user in self.users:
            if user.process.returncode is None:
                user.end()
        wait_until(self._all_killed)

    def _all_killed(self) -> bool:
        """Kill what is there; a child that has just been forked still has the name of its parent, and is met later."""
        server = find_server(str(self.data))
        for pid in self.pids():
            if server is not None and pid == server.pid:
                # A server that is killed leaves its shared memory behind, and a machine has only so many segments.
                send(pid, signal.SIGQUIT)
                send(pid, signal.SIGCONT)
            else:
                kill(pid)
        return not self.pids() and not self.residents()

    def remove(self) -> None:
        """End all and remove the home."""
        self.kill_everything()
        shutil.rmtree(self.path, ignore_errors=True)


def kill(pid: int) -> None:
    """Kill a process that may be gone."""
    send(pid, signal.SIGKILL)
