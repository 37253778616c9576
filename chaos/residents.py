"""The servers that clients over stdio share, one after the other on one home, and those clients."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from chaos.clients import Era, StdioClient
from chaos.evidence import Life, Outage
from chaos.timing import now, pause, until
from tests.support.residents import pids_of, place_of

from agentapi_mcp.resident.place import Place

# A module of this name is imported at the start (https://docs.python.org/3/library/site.html).
_AT_START = """
import os, sys
if any("agentapi_mcp.resident.server" in word for word in sys.orig_argv):
    os.environ["CHAOS_PROCESS"] = f"resident.{os.getpid()}"
"""
_LINGER = 5.0
_LOOK_EVERY = 0.05
_SAYS_WITHIN = 1.0
_SERVES_WITHIN = 60.0


@dataclass
class Server:
    """One process that clients share."""

    pid: int
    life: Life
    is_ending: bool = False  # the harness told or made it


@dataclass
class Residents:
    """All of them, as `open` watches them come and go.

    Each asks the provider with a key of its own, as replicas do. Its clients must not give it one, since two values
    are two servers: it takes its number when Python starts.
    """

    place: Path
    given: Mapping[str, str]
    configuration: str
    lives: list[Life]
    servers: list[Server] = field(default_factory=list[Server])
    clients: list[StdioClient] = field(default_factory=list[StdioClient])

    @property
    def env(self) -> dict[str, str]:
        """The environment of each client."""
        return {
            **self.given,
            "AGENTAPI_CONFIG": str(self._catalogue),
            "PYTHONPATH": os.pathsep.join([str(self._modules), self.given["PYTHONPATH"]]),
            "AGENTAPI_RESIDENT": "1",
            "AGENTAPI_RESIDENT_LINGER_SECONDS": f"{_LINGER:g}",
        }

    @property
    def said(self) -> str:
        """What the servers logged."""
        log = Path(self._found.log)
        return log.read_text(encoding="utf-8") if log.exists() else ""

    @cached_property
    def _found(self) -> Place:
        return place_of(self.env)

    @property
    def _modules(self) -> Path:
        return self.place / "modules"

    @property
    def _catalogue(self) -> Path:
        return self.place / "agentapi.toml"

    def client(self, era: Era) -> StdioClient:
        """Return a new client."""
        self.clients.append(StdioClient(self.env, self.place / "bridges.log", era))
        return self.clients[-1]

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["Residents"]:
        """Watch the servers; with the context, they and the clients end."""
        self._catalogue.write_text(self.configuration, encoding="utf-8")
        self._modules.mkdir()
        (self._modules / "sitecustomize.py").write_text(_AT_START, encoding="utf-8")
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch())
                yield self
                watching.cancel()
        finally:
            for client in self.clients:
                await client.kill()
            assert await until(self._all_killed, 30), "servers outlive the run"

    async def serving(self) -> Server:
        """Return the server that takes calls now; wait until there is one that we have not ended."""

        async def is_there() -> bool:
            return self._serving() is not None

        assert await until(is_there, _SERVES_WITHIN, _LOOK_EVERY), f"no server comes up: {self.said}"
        server = self._serving()
        assert server is not None
        return server

    async def running_turns(self) -> int:
        """Ask the server how many turns it runs."""
        return int((await self._told()).get("running_turns", 0))

    async def kill(self, server: Server) -> None:
        """Kill it."""
        server.is_ending = server.life.killed = True
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGKILL)

        async def is_gone() -> bool:
            return _is_gone(server.pid)

        assert await until(is_gone, 30, 0.01), "it outlives a kill -9"
        server.life.until = now()  # `_watch` may be listening to the next one

    async def stop(self, server: Server) -> tuple[int, str]:
        """Have it stopped by the command; return with what status that ended, and what it said."""
        server.is_ending = True
        server.life.stopping = now()
        words = (sys.executable, "-m", "agentapi_mcp", "stop")
        process = await asyncio.create_subprocess_exec(
            *words, env=self.env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        if _is_gone(server.pid):
            server.life.until = now()
        return process.returncode, said.decode()

    async def freeze(self, server: Server, seconds: float) -> None:
        """Let it stand still for so long."""
        server.life.frozen.append(Outage(since=now()))
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGSTOP)
            await pause(seconds)
            os.kill(server.pid, signal.SIGCONT)
        server.life.frozen[-1].until = now()

    def processes(self) -> list[int]:
        """List the processes of the program on this home, whatever they are."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                environ = (entry / "environ").read_bytes() if entry.name.isdecimal() else b""
                if os.fsencode(f"AGENTAPI_CONFIG={self._catalogue}") in environ.split(b"\0"):
                    found.append(int(entry.name))
        return found

    def _serving(self) -> Server | None:
        there = [server for server in self.servers if server.life.until is None and not server.is_ending]
        return there[-1] if there else None

    async def _watch(self) -> None:
        """Note which servers come and go."""
        while True:
            for server in self.servers:
                if server.life.until is None and _is_gone(server.pid):
                    server.life.until = now()
            pid = (await self._told()).get("pid")
            if isinstance(pid, int) and pid not in {server.pid for server in self.servers}:
                life = Life(process=f"resident.{pid}", since=now())
                self.lives.append(life)
                self.servers.append(Server(pid, life))
            await pause(_LOOK_EVERY)

    async def _told(self) -> dict[str, Any]:
        """Ask whoever serves the clients for what it tells of itself; empty if it says nothing."""
        try:
            async with asyncio.timeout(_SAYS_WITHIN):
                reader, writer = await asyncio.open_unix_connection(self._found.socket)
                try:
                    writer.write(b"status\n")
                    return cast("dict[str, Any]", json.loads(await reader.read()))
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError):
            return {}

    async def _all_killed(self) -> bool:
        for pid in pids_of(self._found.run):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids_of(self._found.run)


def _is_gone(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()  # one that nobody has waited for yet
    except OSError:
        return True
