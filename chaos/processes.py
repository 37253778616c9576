"""Processes of a run: each is started here, and only these are stopped, killed or frozen."""

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import agentapi_mcp
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount

# Below what Linux takes for outgoing connections.
_PORTS = (20_000, 32_000)
ROOT = Path(__file__).parents[1]
SOURCE = Path(agentapi_mcp.__file__).parents[1]


@dataclass
class Process:
    """A process that writes to a file of its own."""

    running: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """Its number."""
        return self.running.pid

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.running.returncode is not None

    async def end(self, sign: signal.Signals, within: float = 60.0) -> int:
        """Send a signal and wait for the end; one that does not come is made."""
        if not self.is_over:
            with suppress(ProcessLookupError):
                self.running.send_signal(sign)
        try:
            async with asyncio.timeout(within):
                return await self.running.wait()
        except TimeoutError:
            self.running.kill()
            return await self.running.wait()

    def send_all(self, sign: signal.Signals) -> None:
        """Send a signal to it and its descendants: SIGSTOP and SIGCONT, or SIGKILL as a failing machine does."""
        if not self.is_over:
            send_all(self.pid, sign)


async def start(
    words: Sequence[str | Path], output: Path, env: Mapping[str, str], account: ServerAccount | None = None
) -> Process:
    """Start a process, as another account where one is given."""
    other = account if account is not None and account.is_other else None
    with output.open("ab") as file:
        running = await asyncio.create_subprocess_exec(
            *map(str, words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/" if other else ROOT,
            env=dict(env),
            start_new_session=True,  # a Ctrl-C in this terminal is for the harness, which ends them itself
            user=None if other is None else other.uid,
            group=None if other is None else other.gid,
            extra_groups=None if other is None else [],
        )
    return Process(running)


def family(pid: int) -> list[int]:
    """List a process and its descendants, so that a parent comes before its children (Linux)."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def send_all(pid: int, sign: signal.Signals) -> None:
    """Send a signal to a process and its descendants; one that is gone is passed over."""
    for each in family(pid):
        with suppress(ProcessLookupError):
            os.kill(each, sign)


def python_path(source: Path = SOURCE) -> dict[str, str]:
    """Let a process import this checkout, or another one, whatever is installed."""
    return {"PYTHONPATH": os.pathsep.join([str(source), str(ROOT), *(entry for entry in sys.path if entry)])}


def free_port() -> int:
    """Return a port that nobody listens on just now, and that no outgoing connection takes while its server is away."""
    while True:
        port = random.randint(*_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


async def listens(port: int) -> bool:
    """Tell whether somebody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pid: int) -> int:
    """Count the open descriptors of a process (Linux)."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
